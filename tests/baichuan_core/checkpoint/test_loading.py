"""Loading models, tokenizers and adapters, and the errors if that fails."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save, save_file

from baichuan_core import (
    AdapterMismatchError,
    BaichuanForCausalLM,
    BaichuanTokenizer,
    CheckpointError,
    QuantizationOptions,
    TokenizerError,
    UnsupportedError,
    quantize,
)
from baichuan_core.checkpoint import load_model, load_tokenizer, write_base_identity

MakeCheckpoint = Callable[..., Path]
IDS = torch.arange(5, 17)[None]


@torch.no_grad()
def make_adapter(base: Path, adapter: Path, *, recorded: bool = True) -> torch.Tensor:
    """Write a LoRA adapter of `base` and return the logits it gives."""
    settings = LoraConfig(r=2, target_modules=["W_pack"], init_lora_weights=False)
    model = get_peft_model(load_model(base, device="cpu"), settings).eval()
    model.save_pretrained(str(adapter))
    if recorded:
        write_base_identity(adapter, base)
    logits: torch.Tensor = model(IDS).logits
    return logits


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_the_dtype_is_that_of_the_checkpoint_or_the_requested_one(make_checkpoint: MakeCheckpoint, dtype: str) -> None:
    model = load_model(make_checkpoint(dtype=torch.bfloat16), dtype=dtype, device="cpu")  # type: ignore[arg-type]
    assert isinstance(model, BaichuanForCausalLM)
    assert not model.training
    assert model.dtype == (torch.bfloat16 if dtype == "auto" else getattr(torch, dtype))


@pytest.mark.parametrize(("field", "value"), [("dtype", "int3"), ("device", "toaster")])
def test_unknown_dtype_or_device_is_refused(make_checkpoint: MakeCheckpoint, field: str, value: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{value!r} is unknown: use"):
        load_model(make_checkpoint(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("device_map", ["toaster", {"": "toaster"}])
def test_unknown_device_in_a_map_is_refused(
    make_checkpoint: MakeCheckpoint, device_map: str | dict[str, str | int | torch.device]
) -> None:
    with pytest.raises(UnsupportedError, match="'toaster' is unknown: use"):
        load_model(make_checkpoint(), device_map=device_map)


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("int8", "SCB"),
        ("nf4", "weight.absmax"),
        ("nf4", "weight.nested_absmax"),
        ("fp4", "weight.quant_state.bitsandbytes__fp4"),
    ],
)
def test_codes_without_their_scales_are_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, method: Literal["int8", "nf4", "fp4"], part: str
) -> None:
    quantize(make_checkpoint(), tmp_path / "whole", QuantizationOptions(method))
    file = tmp_path / "whole" / "model.safetensors"
    tensors, lost = load_file(file), f"model.layers.1.mlp.up_proj.{part}"
    del tensors[lost]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"lacks {lost}, a part of"):
        load_model(tmp_path / "whole", device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a checkpoint directory"),
        ("{", "is damaged"),
        ('{"model_type": "llama"}', "describes a 'llama' model"),
        ('{"hidden_size": 30, "num_attention_heads": 4}', "does not describe a valid model"),
    ],
)
def test_bad_configuration_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"config\.json .*{message}|{message}"):
        load_model(tmp_path)


def test_tokenizer_loads(make_checkpoint: MakeCheckpoint) -> None:
    assert isinstance(load_tokenizer(make_checkpoint()), BaichuanTokenizer)


def test_missing_and_damaged_tokenizers_are_named(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    (checkpoint / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model is not a SentencePiece model"):
        load_tokenizer(checkpoint)
    (checkpoint / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.model is missing: copy"):
        load_tokenizer(checkpoint)


@torch.no_grad()
@pytest.mark.parametrize("recorded", [True, False])
def test_adapter_on_its_base(make_checkpoint: MakeCheckpoint, tmp_path: Path, recorded: bool) -> None:
    base = make_checkpoint()
    expected = make_adapter(base, tmp_path / "adapter", recorded=recorded)
    model = load_model(base, device="cpu", adapter=tmp_path / "adapter")
    assert isinstance(model, BaichuanForCausalLM)
    torch.testing.assert_close(model(IDS).logits, expected)
    assert not torch.allclose(model(IDS).logits, load_model(base, device="cpu")(IDS).logits, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("method", ["int8", "nf4"])
def test_adapter_on_its_base_in_another_dtype_and_quantized(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, method: str
) -> None:
    base = make_checkpoint()
    expected = make_adapter(base, tmp_path / "adapter")
    quantize(base, tmp_path / "quantized", QuantizationOptions(method=method, compute_dtype="float32"))  # type: ignore[arg-type]
    model = load_model(tmp_path / "quantized", dtype="bfloat16", device="cpu", adapter=tmp_path / "adapter")
    assert (model(IDS).logits.float() - expected).abs().mean() < 0.4 * expected.abs().mean()


@pytest.mark.parametrize("recorded", [True, False])
def test_an_adapter_of_another_shape_names_its_base(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, recorded: bool
) -> None:
    make_adapter(make_checkpoint("small"), tmp_path / "adapter", recorded=recorded)
    message = (
        "made for small .* hidden size 64"
        if recorded
        else r"of shape \[2, 64\], which does not fit the layer of shape \[384, 128\]"
    )
    with pytest.raises(AdapterMismatchError, match=message):
        load_model(make_checkpoint("large", hidden_size=128), adapter=tmp_path / "adapter")


def test_adapter_without_a_record_may_not_have_more_layers(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    make_adapter(make_checkpoint("deep"), tmp_path / "adapter", recorded=False)
    with pytest.raises(AdapterMismatchError, match=r"changes model\.layers\.1\.self_attn\.W_pack, which flat"):
        load_model(make_checkpoint("flat", num_hidden_layers=1), adapter=tmp_path / "adapter")


def test_an_adapter_of_another_base_with_equal_shape_is_rejected(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    make_adapter(make_checkpoint("mine"), tmp_path / "adapter")
    with pytest.raises(AdapterMismatchError, match=r"made for mine .*yours has the same shape but different weights"):
        load_model(make_checkpoint("yours", seed=1), adapter=tmp_path / "adapter")


def test_a_directory_without_adapter_config_is_not_an_adapter(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        load_model(base, adapter=base)


def test_damaged_adapter_record_is_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint()
    make_adapter(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "baichuan_base.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(CheckpointError, match=r"baichuan_base\.json is damaged"):
        load_model(base, adapter=tmp_path / "adapter")


def test_tokenizer_with_more_pieces_than_the_model_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(TokenizerError, match="760 pieces, but vocab_size in config"):
        load_tokenizer(make_checkpoint(vocab_size=512))


def test_checkpoint_of_another_quantization_library_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="quantized by gptq: use"):
        load_model(checkpoint)


def test_an_adapter_of_another_architecture_is_not_silently_ignored(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    base, adapter = make_checkpoint(), tmp_path / "adapter"
    make_adapter(base, adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("W_pack", "q_proj"): tensor for name, tensor in weights.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    with pytest.raises(AdapterMismatchError, match=r"self_attn\.q_proj, which"):
        load_model(base, adapter=adapter)


def test_damaged_adapters_are_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base, whole = make_checkpoint(), tmp_path / "whole"
    make_adapter(base, whole)
    weights = whole / "adapter_model.safetensors"
    half = dict(list(load_file(weights).items())[:2])
    damages: dict[str, tuple[str, bytes | None]] = {
        r"adapter_config\.json is not valid JSON": ("adapter_config.json", b"{"),
        r"has no adapter_model\.safetensors": (weights.name, None),
        "is damaged": (weights.name, weights.read_bytes()[:500]),
        r"lacks 1 of the 2 layers .* model\.layers\.\d\.self_attn\.W_pack": (weights.name, save(half)),
    }
    for number, (message, (file, content)) in enumerate(damages.items()):
        adapter = shutil.copytree(whole, tmp_path / f"damaged-{number}")
        (adapter / file).unlink() if content is None else (adapter / file).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_model(base, adapter=adapter)
