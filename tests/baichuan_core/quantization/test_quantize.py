"""Quantized checkpoints have the bytes that transformers would write, and load without extra arguments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from baichuan_core import (
    BaichuanForCausalLM,
    CheckpointError,
    Progress,
    QuantizationOptions,
    UnsupportedError,
    convert,
    quantize,
)
from baichuan_core.checkpoint import TensorReader, load_model, read_config
from baichuan_core.model.chunked_loss import LinearHead
from baichuan_core.quantization.quantize import estimate_output_bytes

MakeCheckpoint = Callable[..., Path]
IDS = torch.arange(5, 29)[None]

METHODS = [
    QuantizationOptions("int8"),
    QuantizationOptions("nf4", compute_dtype="float32"),
    QuantizationOptions("nf4", double_quantization=False, compute_dtype="float32"),
    QuantizationOptions("fp4", compute_dtype="float32"),
]
LIMITS = {"int8": 0.03, "nf4": 0.25, "fp4": 0.35}


def transformers_settings(options: QuantizationOptions) -> BitsAndBytesConfig:
    if options.method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=options.method,
        bnb_4bit_use_double_quant=options.double_quantization,
        bnb_4bit_compute_dtype=options.compute_dtype,
    )


@torch.no_grad()
@pytest.mark.parametrize("options", METHODS, ids=str)
@pytest.mark.parametrize("lengths", [{}, {"max_position_embeddings": None, "model_max_length": 128}])
@pytest.mark.parametrize("norm_head", [True, False])
def test_result_loads_without_a_flag(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    options: QuantizationOptions,
    lengths: dict[str, Any],
    norm_head: bool,
) -> None:
    checkpoint = make_checkpoint(norm_head=norm_head, **lengths)
    report = quantize(checkpoint, tmp_path / "quantized", options)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized")
    assert isinstance(model, BaichuanForCausalLM)
    assert model.config.norm_head is norm_head
    assert type(model.lm_head) is LinearHead
    assert not model.model.layers[0].mlp.up_proj.weight.is_floating_point()
    expected = load_model(checkpoint, device="cpu")(IDS).logits
    error = (model(IDS).logits - expected).norm() / expected.norm()
    assert error < LIMITS[options.method]
    assert 0 < report.mean_relative_error < LIMITS[options.method]
    assert len(report.relative_errors) == 10
    assert report.bytes_after < report.bytes_before
    assert (tmp_path / "quantized" / "tokenizer.model").exists()


@torch.no_grad()
@pytest.mark.parametrize("options", METHODS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_equal_those_that_transformers_writes(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, options: QuantizationOptions, dtype: torch.dtype
) -> None:
    checkpoint = make_checkpoint(dtype=dtype)
    quantize(checkpoint, tmp_path / "ours", options)
    settings = transformers_settings(options)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=settings, device_map="auto")
    model.save_pretrained(tmp_path / "theirs")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@torch.no_grad()
def test_quantized_model_saves_and_loads_again(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantize(make_checkpoint(), tmp_path / "first", QuantizationOptions("nf4", compute_dtype="float32"))
    model = load_model(tmp_path / "first", device="cpu")
    model.save_pretrained(tmp_path / "second")
    first = load_file(tmp_path / "first" / "model.safetensors")
    second = load_file(tmp_path / "second" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = load_model(tmp_path / "second", device="cpu")
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_quantized_and_converted_head_agree(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantize(make_checkpoint(), tmp_path / "quantized", QuantizationOptions("int8"))
    convert(tmp_path / "quantized", tmp_path / "converted", "baichuan1")
    expected = load_model(tmp_path / "quantized", device="cpu")(IDS).logits
    model = load_model(tmp_path / "converted", device="cpu")
    assert model.config.norm_head is False
    torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=2e-5)


def test_generation_with_a_quantized_model(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantize(make_checkpoint(), tmp_path / "quantized", QuantizationOptions("nf4"))
    model = load_model(tmp_path / "quantized", device="cpu")
    generated = model.generate(IDS, max_new_tokens=4, do_sample=False, eos_token_id=511, pad_token_id=0)
    assert generated.shape == (1, IDS.shape[1] + 4)


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_estimated_size_is_enough(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, options: QuantizationOptions
) -> None:
    checkpoint = make_checkpoint()
    quantize(checkpoint, tmp_path / "quantized", options)
    with TensorReader(checkpoint) as reader:
        estimate = estimate_output_bytes(reader, read_config(checkpoint), options)
    written = (tmp_path / "quantized" / "model.safetensors").stat().st_size
    assert written <= estimate


def test_progress_ends_at_one(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    reports: list[Progress] = []
    quantize(make_checkpoint(), tmp_path / "quantized", QuantizationOptions("int8"), on_progress=reports.append)
    fractions = [progress.fraction for progress in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert sum("relative_error" in progress.metrics for progress in reports) == 11


def test_quantized_checkpoint_is_not_quantized_again(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantize(make_checkpoint(), tmp_path / "quantized", QuantizationOptions("int8"))
    with pytest.raises(UnsupportedError, match="already quantized"):
        quantize(tmp_path / "quantized", tmp_path / "again", QuantizationOptions("nf4"))


@pytest.mark.parametrize(
    ("intermediate_size", "message"),
    [
        (176, r"layers\.0\.mlp\.gate_proj\.weight has 176 output features, .* multiple of 32"),
        (160, r"layers\.0\.mlp\.down_proj\.weight has 160 input features, .* multiple of 64"),
    ],
)
def test_shapes_without_a_4_bit_kernel_name_the_layer(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, intermediate_size: int, message: str
) -> None:
    checkpoint = make_checkpoint(intermediate_size=intermediate_size)
    with pytest.raises(UnsupportedError, match=message):
        quantize(checkpoint, tmp_path / "quantized", QuantizationOptions("fp4"))
    quantize(checkpoint, tmp_path / "quantized", QuantizationOptions("int8"))


@pytest.mark.parametrize("options", [{"method": "int2"}, {"compute_dtype": "int8"}])
def test_unknown_settings_are_rejected(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedError, match="is unknown: use"):
        quantize(make_checkpoint(), tmp_path / "quantized", QuantizationOptions(**options))


@pytest.mark.parametrize("value", [float("nan"), 1e6], ids=["NaN", "too large for float16"])
def test_weights_that_cannot_be_quantized_are_named(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, value: float
) -> None:
    checkpoint = make_checkpoint()
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight .* has values"):
        quantize(checkpoint, tmp_path / "quantized", QuantizationOptions("int8"))
    assert not (tmp_path / "quantized").exists()
