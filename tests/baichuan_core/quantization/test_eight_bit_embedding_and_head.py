"""8-bit embedding and output head: results, memory and loading."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from baichuan_core import (
    BaichuanConfig,
    BaichuanForCausalLM,
    CheckpointError,
    QuantizationOptions,
    UnsupportedError,
    inspect_checkpoint,
    load_model,
    quantize,
)
from baichuan_core.checkpoint import write_base_identity
from baichuan_core.checkpoint.base_identity import BaseIdentity
from baichuan_core.checkpoint.quantized_weights import dequantize_embedding_or_head
from baichuan_core.model import row_norms
from baichuan_core.model.eight_bit_embedding_and_head import EightBitHead

MakeCheckpoint = Callable[..., Path]
IDS = torch.arange(5, 29)[None]
WITH_HEAD = QuantizationOptions("int8", quantize_head=True)


@torch.no_grad()
def test_every_family_computes_the_same_as_with_dequantized_weights(
    family: Path, load: Callable[..., BaichuanForCausalLM], tmp_path: Path
) -> None:
    """Compare golden checkpoints with the same quantized model whose embedding and head are dequantized."""
    model = load(family)
    model.save_pretrained(tmp_path / "named")  # with `norm_head` in its configuration
    report = quantize(tmp_path / "named", tmp_path / "quantized", WITH_HEAD)
    assert report.relative_errors["lm_head.weight"] < 0.01
    assert report.relative_errors["model.embed_tokens.weight"] < 0.01
    quantized = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized")
    stored = load_file(tmp_path / "quantized" / "model.safetensors")
    plain = load(family).quantize(8)
    plain.lm_head.weight.copy_(dequantize_embedding_or_head(stored["lm_head.weight"], stored["lm_head.scale"]))
    table = dequantize_embedding_or_head(stored["model.embed_tokens.weight"], stored["model.embed_tokens.scale"])
    plain.model.embed_tokens.weight.copy_(table)
    ids = torch.arange(3, 19)[None]
    torch.testing.assert_close(quantized(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(row_norms(quantized.lm_head), row_norms(plain.lm_head), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
def test_result_loads_without_a_flag_and_saves_again(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, method: str
) -> None:
    checkpoint = make_checkpoint(dtype=torch.bfloat16)
    options = QuantizationOptions(method, quantize_head=True)  # type: ignore[arg-type]
    report = quantize(checkpoint, tmp_path / "first", options)
    without = quantize(checkpoint, tmp_path / "without", QuantizationOptions(method))  # type: ignore[arg-type]
    numbers = 2 * 768 * 64
    assert without.bytes_after - report.bytes_after == numbers - 2 * 768 * 4  # a byte per weight and a float per row
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    assert (model.lm_head.weight.dtype, model.lm_head.scale.dtype) == (torch.int8, torch.float32)
    assert model.model.embed_tokens.weight.dtype == torch.int8
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "second")
    first = load_file(tmp_path / "first" / "model.safetensors")
    second = load_file(tmp_path / "second" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "second").lm_head, EightBitHead)
    summary = inspect_checkpoint(tmp_path / "second")
    assert summary.parameters == inspect_checkpoint(checkpoint).parameters
    generated = model.generate(IDS, max_new_tokens=4, do_sample=False, eos_token_id=767, pad_token_id=0)
    assert generated.shape == (1, IDS.shape[1] + 4)


@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_the_head_equals_the_product_with_its_dequantized_rows(rows: int, width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows * 100 + width)
    head = EightBitHead.from_dense(torch.randn(rows, width, generator=generator).to(dtype))
    hidden = torch.randn(2, 3, width, generator=generator, dtype=torch.float32).to(dtype).requires_grad_()
    dense = dequantize_embedding_or_head(head.weight, head.scale)
    product = head(hidden)
    assert product.dtype == dtype
    # bfloat16 has 8 significant bits, float16 has 11; the sums have `width` products of about 1.
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}[dtype]
    torch.testing.assert_close(product.float(), hidden.float() @ dense.T, rtol=tolerance, atol=tolerance * width**0.5)
    product.float().square().sum().backward()
    expected = 2 * product.detach().float() @ dense
    assert hidden.grad is not None
    scale = float(expected.abs().max())
    torch.testing.assert_close(hidden.grad.float(), expected, rtol=tolerance, atol=2 * tolerance * scale)


def test_scale_stays_exact_when_the_model_is_cast() -> None:
    head = EightBitHead.from_dense(torch.randn(8, 16))
    before = head.scale.clone()
    assert torch.equal(head.to(torch.bfloat16).scale, before)
    assert head.weight.dtype == torch.int8


def test_checkpoint_without_codes_is_not_filled_with_random_ones(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(UnsupportedError, match="has no 8-bit head: quantize it with"):
        AutoModelForCausalLM.from_pretrained(make_checkpoint(), quantize_head=True)


def test_missing_scale_is_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantize(make_checkpoint(), tmp_path / "quantized", QuantizationOptions("nf4"))
    config = tmp_path / "quantized" / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps"', '"quantize_head": true, "rms_norm_eps"'))
    with pytest.raises(CheckpointError, match=r"lacks 2 tensors, the first of them lm_head\.scale"):
        load_model(tmp_path / "quantized", device="cpu")


def test_a_tied_head_is_rejected(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=True)
    with pytest.raises(UnsupportedError, match="do not set quantize_head"):
        quantize(checkpoint, tmp_path / "quantized", WITH_HEAD)
    with pytest.raises(UnsupportedError, match="do not set quantize_head"):
        load_model(checkpoint, device="cpu").quantize(8, quantize_head=True)
    with pytest.raises(ValueError, match="quantize_head and tie_word_embeddings are both true"):
        BaichuanConfig(quantize_head=True, tie_word_embeddings=True)


@pytest.mark.parametrize(("trained_on", "used_on"), [("base", "quantized"), ("quantized", "base")])
def test_adapters_recognize_their_quantized_base(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, trained_on: str, used_on: str
) -> None:
    make_checkpoint("base")
    quantize(tmp_path / "base", tmp_path / "quantized", WITH_HEAD)
    quantize(make_checkpoint("other", seed=1), tmp_path / "other-quantized", WITH_HEAD)
    write_base_identity(tmp_path, tmp_path / trained_on)
    recorded = BaseIdentity.read(tmp_path / "baichuan_base.json")
    assert recorded.has_same_weights(BaseIdentity.from_checkpoint(tmp_path / used_on))
    assert not recorded.has_same_weights(BaseIdentity.from_checkpoint(tmp_path / "other-quantized"))
