"""Configurations and weights of other tools are used as intended, or rejected by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import (
    BaichuanConfig,
    BaichuanError,
    BaichuanForCausalLM,
    CheckpointError,
    GenerationOptions,
    GenerationRequest,
    QuantizationOptions,
    UnsupportedError,
    convert,
    generate,
    load_model,
    load_tokenizer,
    quantize,
)
from baichuan_core.checkpoint import read_config
from baichuan_core.tokenizer import ChatFormat, read_generation_settings
from checkpoint_files import FileError, check_directory

MakeCheckpoint = Callable[..., Path]
IDS = torch.tensor([[5, 6, 7, 8, 9]])
MARK = b"\xef\xbb\xbf"


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint()


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@torch.no_grad()
def logits(checkpoint: Path, **settings: Any) -> Tensor:
    result: Tensor = load_model(checkpoint, device="cpu", **settings)(IDS).logits
    return result


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"load_in_4bit": False, "load_in_8bit": False},
        {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
    ],
)
def test_leftover_quantization_settings_are_a_plain_model(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    wanted = logits(checkpoint)
    rewrite(checkpoint / "config.json", quantization_config=settings)
    check_directory(checkpoint)
    assert torch.equal(logits(checkpoint), wanted)
    quantize(checkpoint, tmp_path / "int8", QuantizationOptions("int8"))
    assert logits(checkpoint, quantization="int8").equal(logits(tmp_path / "int8"))


@pytest.mark.parametrize("settings", [{}, {"load_in_4bit": False, "load_in_8bit": False}])
def test_settings_that_quantize_nothing_load_through_transformers_too(
    checkpoint: Path, settings: dict[str, Any]
) -> None:
    rewrite(checkpoint / "config.json", quantization_config=settings)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert getattr(model.config, "quantization_config", None) is None


@pytest.mark.parametrize("by", [AutoModelForCausalLM, BaichuanForCausalLM])
@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
    ],
)
@torch.no_grad()
def test_leftover_quantization_settings_are_a_plain_model_through_transformers_too(
    checkpoint: Path, tmp_path: Path, by: Any, settings: dict[str, Any]
) -> None:
    wanted = logits(checkpoint)
    rewrite(checkpoint / "config.json", quantization_config=settings)
    model = by.from_pretrained(checkpoint)
    assert torch.equal(model(IDS).logits, wanted)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(tmp_path / "saved"), wanted)
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_gptq_and_awq_are_named_without_a_label(checkpoint: Path, tmp_path: Path) -> None:
    unlabelled = shutil.copytree(checkpoint, tmp_path / "unlabelled")
    rewrite(unlabelled / "config.json", quantization_config={"bits": 4, "group_size": 128})
    autogptq = shutil.copytree(checkpoint, tmp_path / "autogptq")
    (autogptq / "model.safetensors").rename(autogptq / "gptq_model-4bit-128g.safetensors")
    (autogptq / "quantize_config.json").write_text('{"bits": 4}')
    tensors = load_file(checkpoint / "model.safetensors")
    name = "model.layers.0.self_attn.W_pack"
    tensors[f"{name}.qweight"] = tensors.pop(f"{name}.weight").int()
    packed = shutil.copytree(checkpoint, tmp_path / "packed")
    save_file(tensors, packed / "model.safetensors")
    for directory, message in (
        (unlabelled, "quantization_config has bits but no quant_method, as GPTQ and AWQ"),
        (autogptq, r"AutoGPTQ or AutoAWQ \(it contains quantize_config\.json\)"),
        (packed, r"GPTQ or AWQ \(it contains .*W_pack\.qweight"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            load_model(directory, device="cpu")
        with pytest.raises(FileError, match=message):
            check_directory(directory)


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"]
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_integers_that_are_not_declared_quantized_are_rejected(
    checkpoint: Path, tmp_path: Path, name: str, suffix: str
) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors[name] = (tensors[name] * 100).to(torch.int8)
    (checkpoint / "model.safetensors").unlink()
    if suffix == "bin":
        torch.save(tensors, checkpoint / "pytorch_model.bin")
    else:
        save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    message = (
        rf"{name} in .*model\.{suffix} has the dtype (I8|torch\.int8|CharStorage), .* does not declare it as quantized"
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint, device="cpu")
    with pytest.raises(CheckpointError, match=message):
        convert(checkpoint, tmp_path / "baichuan1", "baichuan1")
    with pytest.raises(FileError, match=message):
        check_directory(checkpoint)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_key_value_heads": 4},
        {"head_dim": 16},
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_2"},
        {"norm_head": 1, "tie_word_embeddings": 0},
        {"architectures": ["BaichuanForCausalLM"], "auto_map": {"AutoConfig": "configuration_baichuan.BaichuanConfig"}},
        {"hidden_size": 64.0, "vocab_size": 768.0, "eos_token_id": 2.0},
        {"pad_token_id": 768},
        {"pad_token_id": -1},
        {"quantization_config": None},
    ],
)
def test_fields_of_other_tools_are_understood(checkpoint: Path, fields: dict[str, Any]) -> None:
    wanted = logits(checkpoint)
    rewrite(checkpoint / "config.json", **fields)
    check_directory(checkpoint)
    assert torch.equal(logits(checkpoint), wanted)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert model.config.pad_token_id == 0
    assert type(model.config.eos_token_id) is int


def test_an_attention_implementation_that_a_caller_asks_for_is_used(checkpoint: Path) -> None:
    rewrite(checkpoint / "config.json", attn_implementation="flash_attention_2")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    with pytest.raises((ImportError, ValueError), match=r"Flash ?Attention ?2"):
        AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="flash_attention_2")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, but num_attention_heads is 4.* grouped-query"),
        ({"head_dim": 32}, "head_dim is 32, but hidden_size 64 divided by num_attention_heads 4 is 16"),
        ({"vocab_size": 768.5}, "vocab_size is 768.5"),
        ({"model_type": "llama"}, "describes a 'llama' model"),
        (
            {"quantization_config": {"load_in_4bit": True, "load_in_8bit": True}},
            "sets both load_in_8bit and load_in",
        ),
    ],
)
def test_fields_that_contradict_the_model_are_named(checkpoint: Path, fields: dict[str, Any], message: str) -> None:
    rewrite(checkpoint / "config.json", **fields)
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint, device="cpu")
    with pytest.raises(FileError, match=message):
        check_directory(checkpoint)


def test_a_byte_order_mark_is_skipped(checkpoint: Path) -> None:
    wanted = logits(checkpoint)
    (checkpoint / "generation_config.json").write_text('{"top_k": 5.0, "user_token_id": 195.0, "max_new_tokens": 9.0}')
    for name in ("config.json", "generation_config.json"):
        (checkpoint / name).write_bytes(MARK + (checkpoint / name).read_bytes())
    check_directory(checkpoint)
    assert torch.equal(logits(checkpoint), wanted)
    settings = read_generation_settings(checkpoint)
    assert json.dumps(settings) == '{"top_k": 5, "user_token_id": 195, "max_new_tokens": 9}'


@pytest.mark.parametrize("name", ["tokenizer_config.json", "model.safetensors.index.json"])
def test_a_byte_order_mark_that_transformers_cannot_read_is_named(checkpoint: Path, name: str) -> None:
    load_model(checkpoint, device="cpu").save_pretrained(checkpoint, max_shard_size="50KB")
    (checkpoint / "model.safetensors").unlink(missing_ok=True)
    (checkpoint / name).write_bytes(MARK + (checkpoint / name).read_bytes())
    with pytest.raises(BaichuanError, match=rf"{name} begins with a byte order mark: save it as UTF-8 without one"):
        load_tokenizer(checkpoint) if "tokenizer" in name else load_model(checkpoint, device="cpu")
    with pytest.raises(FileError, match="byte order mark"):
        check_directory(checkpoint)


def test_a_padding_token_beyond_the_vocabulary_is_usable(checkpoint: Path) -> None:
    (checkpoint / "added_tokens.json").write_text('{"[PAD]": 768}')
    rewrite(checkpoint / "tokenizer_config.json", pad_token="[PAD]")
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.pad_token_id == 0
    batch = tokenizer(["hello", "hello hello"], padding=True, return_tensors="pt")
    assert int(batch["input_ids"].max()) < 768
    out = checkpoint.parent / "out.jsonl"
    generate(checkpoint, [GenerationRequest("[PAD] hello")], out, GenerationOptions(max_new_tokens=2))
    assert len(out.read_text().splitlines()) == 1


def test_tied_embeddings_with_a_stored_head(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=True)
    wanted = logits(checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    check_directory(checkpoint)
    assert torch.equal(logits(checkpoint), wanted)
    tensors["lm_head.weight"] += 1
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight that differs .* tie_word_embeddings"):
        load_model(checkpoint, device="cpu")


def test_float64_with_a_normalized_head(make_checkpoint: MakeCheckpoint) -> None:
    double, single = make_checkpoint("double", dtype=torch.float64), make_checkpoint("single")
    torch.testing.assert_close(logits(double), logits(single).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("odd", [False, True])
def test_the_published_4_bit_format_is_named_first(golden_root: Path, tmp_path: Path, odd: bool) -> None:
    source = golden_root / "checkpoints" / "baichuan2-7b-int4-imitation"
    directory = shutil.copytree(source, tmp_path / "published")
    rewrite(directory / "config.json", norm_head=True, **({"intermediate_size": 177} if odd else {}))
    for load in (load_model, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError, match=r"published 4-bit form.* convert it"):
            load(directory)


DERIVED: dict[str, Any] = {"vocab_size": 125698, "hidden_size": 4096, "num_attention_heads": 32}
AUTO_MAP: dict[str, Any] = {"auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}}
FIRST_7B: dict[str, Any] = {"auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM"}}
WIDE: dict[str, Any] = {"hidden_size": 5120, "num_attention_heads": 40}


@pytest.mark.parametrize(
    ("fields", "positions", "norm_head"),
    [
        ({"z_loss_weight": 0, **AUTO_MAP, "max_position_embeddings": 4096, "model_max_length": 4096}, "rope", True),
        ({**AUTO_MAP, "max_position_embeddings": 4096}, "rope", True),
        ({**FIRST_7B, "vocab_size": 64002, "max_position_embeddings": 4096}, "rope", False),
        ({**AUTO_MAP, **WIDE, "z_loss_weight": 0, "model_max_length": 4096}, "alibi", True),
        ({**AUTO_MAP, **WIDE, "model_max_length": 4096}, "alibi", None),
        ({**WIDE, "model_max_length": 4096, "max_position_embeddings": 4096, "norm_head": True}, "alibi", True),
        ({"max_position_embeddings": 4096}, "rope", None),
    ],
)
def test_the_family_of_a_derivative_is_inferred_from_published_hints(
    fields: dict[str, Any], positions: str, norm_head: bool | None
) -> None:
    config = BaichuanConfig(**{**DERIVED, **fields})
    assert (config.position_embedding, config.norm_head) == (positions, norm_head)


def test_a_family_without_hints_is_rejected_until_it_is_set(checkpoint: Path) -> None:
    wanted = logits(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    for name in ("norm_head", "architectures"):
        del config[name]
    (checkpoint / "config.json").write_text(json.dumps(config))
    message = r"norm_head is not set, and vocab_size 768 .* set norm_head to true"
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint, device="cpu")
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(checkpoint)
    with pytest.raises(FileError, match=message):
        check_directory(checkpoint)
    rewrite(checkpoint / "config.json", norm_head=True)
    assert torch.equal(logits(checkpoint), wanted)


def test_positions_that_contradict_the_width_are_rejected() -> None:
    with pytest.raises(ValueError, match="hidden_size 5120 indicates alibi, but max_position_embeddings"):
        BaichuanConfig(**WIDE, max_position_embeddings=4096)
    with pytest.raises(ValueError, match="hidden_size 4096 indicates rope, but model_max_length"):
        BaichuanConfig(hidden_size=4096, model_max_length=4096)


@pytest.mark.parametrize(
    ("fields", "style"),
    [
        ({"vocab_size": 64000, "norm_head": False}, "baichuan1-13b"),
        ({"vocab_size": 64002, "norm_head": False}, "baichuan1-13b"),
        ({"vocab_size": 125698, "norm_head": True}, "baichuan2"),
        ({"vocab_size": 125696, "norm_head": False}, "baichuan2"),  # converted to the target baichuan1
    ],
)
def test_the_chat_style_of_13b_derivatives(tmp_path: Path, fields: dict[str, Any], style: str) -> None:
    config = BaichuanConfig(**WIDE, model_max_length=4096, **fields)
    assert ChatFormat.from_checkpoint(tmp_path, config).style == style


ROPE: dict[str, Any] = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
    },
}


@torch.no_grad()
@pytest.mark.parametrize("kind", ROPE)
def test_length_dependent_rope_sees_one_prompt_only(make_checkpoint: MakeCheckpoint, kind: str) -> None:
    checkpoint = make_checkpoint(max_position_embeddings=16, model_max_length=64, rope_parameters=ROPE[kind])
    short, long = torch.arange(3, 13)[None], torch.arange(3, 43)[None]
    model = load_model(checkpoint, device="cpu")
    alone = {len(ids[0]): load_model(checkpoint, device="cpu")(ids).logits for ids in (short, long)}
    for ids in (long, short, long, short):
        assert torch.equal(model(ids).logits, alone[len(ids[0])])
    assert torch.allclose(model(short.repeat(2, 1)).logits, alone[10].repeat(2, 1, 1), atol=1e-5)
    with pytest.raises(UnsupportedError, match=rf'rope_type "{kind}" scales by the length .* beyond 16 tokens'):
        model(long.repeat(2, 1))
    with pytest.raises(UnsupportedError, match="rope_type scales by the length of each prompt"):
        generate(checkpoint, [GenerationRequest("hello")], checkpoint.parent / "out.jsonl")


def test_dynamic_rope_within_the_length_is_used_in_batches(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(rope_parameters=ROPE["dynamic"])
    requests = [GenerationRequest("hello " * count) for count in (1, 12)]
    options = GenerationOptions(max_new_tokens=8, temperature=0)
    generate(checkpoint, requests, tmp_path / "both.jsonl", options)
    generate(checkpoint, requests[:1], tmp_path / "one.jsonl", options)
    both, one = ((tmp_path / name).read_text().splitlines()[0] for name in ("both.jsonl", "one.jsonl"))
    assert json.loads(both)["completion"] == json.loads(one)["completion"]


def test_converting_a_leftover_config_writes_none(checkpoint: Path, tmp_path: Path) -> None:
    rewrite(checkpoint / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    convert(checkpoint, tmp_path / "copy", "safetensors")
    assert "quantization_config" not in json.loads((tmp_path / "copy" / "config.json").read_text())
    assert not hasattr(read_config(tmp_path / "copy"), "quantization_config")
