"""A merged adapter equals the one merged by peft, even if the base is quantized."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from baichuan_core import (
    AdapterMismatchError,
    CheckpointError,
    QuantizationOptions,
    UnsupportedError,
    convert,
    load_model,
    quantize,
)
from baichuan_core.checkpoint import write_base_identity

MakeCheckpoint = Callable[..., Path]
LAYERS = ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_adapter(base: Path, directory: Path, **changes: Any) -> Path:
    """An adapter with random matrices."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["W_pack"]} | changes
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted: Any = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(directory)
    write_base_identity(directory, base)
    return directory


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": LAYERS},
        {
            "use_rslora": True,
            "r": 3,
            "target_modules": LAYERS,
            "alpha_pattern": {"1.self_attn.W_pack": 32, "o_proj": 2},
            "rank_pattern": {"0.mlp.down_proj": 5},
        },
        {"use_dora": True, "target_modules": LAYERS},
        {"init_lora_weights": "pissa", "target_modules": LAYERS, "rank_pattern": {"o_proj": 2}, "use_rslora": True},
        {"init_lora_weights": "olora", "target_modules": ["W_pack", "down_proj"], "alpha_pattern": {"down_proj": 3}},
        {"init_lora_weights": "pissa", "use_dora": True},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": "mica", "target_modules": r".*\.(W_pack|o_proj)", "exclude_modules": ["o_proj"]},
        {"target_modules": ["W_pack", "o_proj"], "layers_to_transform": [1]},
        {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    ],
    ids=[
        "W_pack",
        "everything",
        "patterns",
        "dora",
        "pissa",
        "olora",
        "both",
        "orthogonal",
        "eva",
        "mica",
        "one block",
        "replaced modules",
    ],
)
@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA")
@pytest.mark.filterwarnings("ignore:.*eva")
def test_a_merged_model_equals_that_of_peft(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = make_checkpoint()
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    report = convert(base, tmp_path / "merged", "merged", adapter=adapter)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert report.tensors == len(merged) == len(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-6)
    assert not torch.equal(
        merged["model.layers.1.self_attn.W_pack.weight"],
        load_file(base / "model.safetensors")["model.layers.1.self_attn.W_pack.weight"],
    )
    input_ids = torch.tensor([[5, 6, 7, 8]])
    adapted = load_model(base, device="cpu", adapter=adapter)
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(result(input_ids).logits, adapted(input_ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "dtype"), [("nf4", "auto"), ("int8", "float32"), ("fp4", "bfloat16")])
def test_a_quantized_base_is_dequantized_first(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, method: Any, dtype: Any
) -> None:
    base = make_checkpoint(dtype=torch.bfloat16)
    quantize(base, tmp_path / "quantized", QuantizationOptions(method))
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["W_pack", "down_proj"])
    convert(tmp_path / "quantized", tmp_path / "merged", "merged", adapter=adapter, dtype=dtype)
    convert(tmp_path / "quantized", tmp_path / "dense", "dequantized", dtype="float32")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(dense, str(adapter)).merge_and_unload()
    wanted = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(merged[name], tensor.to(wanted), rtol=0 if dtype == "float32" else 8e-3, atol=1e-6)
    model = load_model(tmp_path / "merged", device="cpu")
    assert (model.dtype, getattr(model.config, "quantization_config", None)) == (wanted, None)


def test_an_adapter_of_another_base_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    adapter = make_adapter(make_checkpoint("other", seed=9), tmp_path / "adapter")
    with pytest.raises(AdapterMismatchError, match="was made for other"):
        convert(make_checkpoint(), tmp_path / "merged", "merged", adapter=adapter)
    assert not (tmp_path / "merged").exists()


def test_a_replaced_module_of_another_shape_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint()
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["embed_tokens"])
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "embed_tokens" in name)
    save_file(tensors | {name: torch.zeros(770, 64)}, file)
    for use in (
        lambda: convert(base, tmp_path / "merged", "merged", adapter=adapter),
        lambda: load_model(base, adapter=adapter),
    ):
        with pytest.raises(
            AdapterMismatchError, match=r"replaces model.embed_tokens .* \[770, 64\] .* has shape \[768, 64\]"
        ):
            use()


def test_a_missing_replaced_module_is_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint()
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["norm"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    lost = next(name for name in tensors if "1.input_layernorm" in name)
    save_file({name: tensors[name] for name in tensors if name != lost}, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks model.layers.1.input_layernorm, which modules_to_save lists"):
        convert(base, tmp_path / "merged", "merged", adapter=adapter)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_replaced_module_of_a_tied_base_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint(tie_word_embeddings=True, norm_head=False)
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    with pytest.raises(UnsupportedError, match=r"replaces lm_head.weight .* use the adapter without merging"):
        convert(base, tmp_path / "merged", "merged", adapter=adapter)


def test_an_incomplete_adapter_is_damaged(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint()
    adapter = make_adapter(base, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    lost = next(name for name in tensors if "lora_B" in name)
    del tensors[lost]
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"is damaged, .* lacks its lora_B: copy the whole adapter again"):
        convert(base, tmp_path / "merged", "merged", adapter=adapter)
    (adapter / "adapter_config.json").write_text(json.dumps([]))
    with pytest.raises(CheckpointError, match="adapter"):
        convert(base, tmp_path / "merged", "merged", adapter=adapter)
