"""How a configuration distinguishes the families, and the fields it saves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from baichuan_core.model.alibi import compute_alibi_slopes
from baichuan_core.model.positions import BaichuanRotaryEmbedding

PUBLISHED: dict[str, tuple[dict[str, Any], str, bool]] = {
    "Baichuan-7B": ({"vocab_size": 64000, "max_position_embeddings": 4096}, "rope", False),
    "Baichuan-13B": ({"vocab_size": 64000, "model_max_length": 4096, "hidden_size": 5120}, "alibi", False),
    "Baichuan2-7B": (
        {"vocab_size": 125696, "max_position_embeddings": 4096, "model_max_length": 4096},
        "rope",
        True,
    ),
    "Baichuan2-13B": (
        {"vocab_size": 125696, "hidden_size": 5120, "num_attention_heads": 40, "model_max_length": 4096},
        "alibi",
        True,
    ),
}


@pytest.mark.parametrize(("published", "positions", "norm_head"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_configurations(published: dict[str, Any], positions: str, norm_head: bool) -> None:
    config = BaichuanConfig(**published)
    assert (config.position_embedding, config.norm_head) == (positions, norm_head)
    assert config.max_position_embeddings == config.model_max_length == 4096


@pytest.mark.parametrize("positions", ["rope", "alibi"])
@pytest.mark.parametrize("norm_head", [True, False])
@pytest.mark.parametrize("lengths", [{}, {"model_max_length": 64}, {"max_position_embeddings": 64}])
@pytest.mark.parametrize("vocab_size", [64000, 125696])
def test_explicit_fields_take_precedence_and_are_saved(
    tmp_path: Path, positions: Any, norm_head: bool, lengths: dict[str, Any], vocab_size: int
) -> None:
    config = BaichuanConfig(position_embedding=positions, norm_head=norm_head, vocab_size=vocab_size, **lengths)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["position_embedding"], saved["norm_head"]) == (positions, norm_head)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, BaichuanConfig)
    assert again.to_dict() == config.to_dict() | {"_name_or_path": again.name_or_path}


def test_saved_alibi_configuration_has_the_published_length_field_only(tmp_path: Path) -> None:
    BaichuanConfig(hidden_size=5120, num_attention_heads=40, model_max_length=128).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_max_length"] == 128
    assert not {"max_position_embeddings", "rope_parameters"} & set(saved)


@pytest.mark.parametrize(
    "given", [{"rope_theta": 1e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}]
)
def test_rope_base_is_honoured(given: dict[str, Any]) -> None:
    config = BaichuanConfig(hidden_size=64, num_attention_heads=4, **given)
    assert BaichuanRotaryEmbedding(config).inv_freq[1] == torch.tensor(1e5) ** (-2 / 16)


def test_rope_base_is_10000_by_default() -> None:
    config = BaichuanConfig(hidden_size=64, num_attention_heads=4)
    assert BaichuanRotaryEmbedding(config).inv_freq[1] == torch.tensor(1e4) ** (-2 / 16)


def test_linear_rope_scaling_divides_the_frequencies() -> None:
    plain = BaichuanConfig(hidden_size=64, num_attention_heads=4)
    scaling: dict[str, Any] = {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    scaled = BaichuanConfig(hidden_size=64, num_attention_heads=4, **scaling)
    expected = BaichuanRotaryEmbedding(plain).inv_freq / 4
    torch.testing.assert_close(BaichuanRotaryEmbedding(scaled).inv_freq, expected)


def test_both_fields_may_be_passed_to_from_pretrained_and_are_saved(golden_root: Path, tmp_path: Path) -> None:
    source = golden_root / "baichuan2-7b"
    model = AutoModelForCausalLM.from_pretrained(source, norm_head=True, position_embedding="alibi")
    assert isinstance(model, BaichuanForCausalLM)
    assert model.config.norm_head
    assert model.model.rotary_emb is None
    model.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert (again.norm_head, again.position_embedding) == (True, "alibi")
    rotated = AutoModelForCausalLM.from_pretrained(tmp_path, position_embedding="rope")
    assert rotated.model.rotary_emb is not None


def test_published_remote_code_is_neither_run_nor_passed_on(golden_root: Path, tmp_path: Path) -> None:
    config = json.loads((golden_root / "baichuan1-7b" / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_baichuan.BaiChuanConfig",
        "AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM",
    }
    config["gradient_checkpointing"] = [False]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (golden_root / "baichuan1-7b" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(model, BaichuanForCausalLM)
    assert "auto_map" not in model.config.to_diff_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size 30 is not a multiple"),
        ({"position_embedding": "learned"}, "position_embedding"),
        ({"norm_head": "yes"}, "norm_head is 'yes': use true or false"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0: it must be a positive integer"),
        ({"hidden_act": "snake"}, "hidden_act is 'snake'"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_parameters .* one of default, linear"),
        ({"hidden_size": 60, "num_attention_heads": 4}, "head_dim is 15, but RoPE requires an even number"),
    ],
)
def test_impossible_configurations_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BaichuanConfig(**fields)


def test_slopes_of_a_power_of_two_are_one_geometric_sequence() -> None:
    torch.testing.assert_close(compute_alibi_slopes(8), 2.0 ** -torch.arange(1.0, 9.0))


def test_slopes_of_40_heads_take_the_rest_from_64() -> None:
    slopes = compute_alibi_slopes(40)
    torch.testing.assert_close(slopes[:32], compute_alibi_slopes(32))
    torch.testing.assert_close(slopes[32:], compute_alibi_slopes(64)[:16:2])


def test_arguments_of_from_pretrained_are_checked_too(golden_root: Path) -> None:
    with pytest.raises(ValueError, match="position_embedding is 'learned': use"):
        AutoModelForCausalLM.from_pretrained(golden_root / "baichuan1-7b", position_embedding="learned")
    with pytest.raises(ValueError, match=r"rope_parameters is .* set rope_theta"):
        AutoModelForCausalLM.from_pretrained(golden_root / "baichuan1-7b", rope_parameters={"factor": 2.0})


@torch.no_grad()
def test_dynamic_rope_scaling_begins_beyond_the_length(golden_root: Path, tmp_path: Path) -> None:
    source = golden_root / "baichuan1-7b"
    config = json.loads((source / "config.json").read_text()) | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    scaled, plain = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path, source))
    ids = torch.arange(3, 303)[None]
    torch.testing.assert_close(scaled(ids[:, :128]).logits, plain(ids[:, :128]).logits)
    assert not torch.allclose(scaled(ids).logits, plain(ids).logits, atol=0.1)
    torch.testing.assert_close(scaled(ids[:, :100]).logits, plain(ids[:, :100]).logits)
