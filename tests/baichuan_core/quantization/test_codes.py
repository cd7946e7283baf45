"""Codes and scales of single matrices: bit-identical to bitsandbytes, with errors within the code book's gaps."""

import pytest
import torch
from bitsandbytes import functional
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baichuan_core.checkpoint.quantized_weights import (
    dequantize_embedding_or_head,
    quantize_embedding_or_head,
    quantize_weight,
)
from baichuan_core.model.quantization import QuantizationMethod
from baichuan_core.quantization.quantize import compute_relative_error

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Half of the widest gap between neighbouring values of a code book, as a fraction of the block's largest magnitude.
HALF_GAPS = {"nf4": 0.152, "fp4": 1 / 6}


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Generate matrices [rows, columns] of whole blocks, some with a row of zeros or very small numbers."""
    rows, blocks = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(rows, 64 * blocks, generator=generator) * 10.0 ** draw(st.integers(-6, 3))
    weight[0] *= draw(st.sampled_from([1.0, 0.0, 1e-4]))
    return weight.to(draw(st.sampled_from(DTYPES)))


@given(matrices(), st.sampled_from(["nf4", "fp4"]), st.booleans())
def test_four_bit_codes_equal_those_of_bitsandbytes(weight: Tensor, method: QuantizationMethod, double: bool) -> None:
    quantized = quantize_weight(weight, method, double_quantization=double)
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type=method)
    expected = {"weight": codes, **{f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}}
    assert quantized.tensors.keys() == expected.keys()
    for name, part in expected.items():
        assert quantized.tensors[name].dtype == part.dtype, name
        assert torch.equal(quantized.tensors[name], part), name


@given(matrices(), st.sampled_from(["nf4", "fp4"]))
def test_four_bit_errors_are_within_half_a_gap_of_the_code_book(weight: Tensor, method: QuantizationMethod) -> None:
    quantized = quantize_weight(weight, method, double_quantization=False)
    largest = weight.float().reshape(-1, 64).abs().amax(dim=1, keepdim=True)
    error = (weight.float() - quantized.dequantized.float()).reshape(-1, 64).abs()
    assert (error <= largest * (HALF_GAPS[method] + 2**-7) + 1e-7).all()


@given(matrices().filter(lambda weight: weight.abs().max() < 6e4))
def test_eight_bit_codes_equal_those_of_bitsandbytes(weight: Tensor) -> None:
    quantized = quantize_weight(weight, "int8", double_quantization=False)
    codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
    assert torch.equal(quantized.tensors["weight"], codes)
    assert torch.equal(quantized.tensors["SCB"], scales)


@given(matrices())
def test_embedding_and_head_errors_are_within_half_a_step(weight: Tensor) -> None:
    quantized = quantize_embedding_or_head(weight)
    codes, scale = quantized.tensors["weight"], quantized.tensors["scale"]
    assert (codes.dtype, scale.dtype) == (torch.int8, torch.float32)
    assert torch.equal(quantized.dequantized, dequantize_embedding_or_head(codes, scale))
    assert ((weight.float() - quantized.dequantized).abs() <= scale[:, None] * 0.5001).all()


@given(matrices(), matrices())
def test_relative_error_is_that_of_the_whole_matrix(weight: Tensor, other: Tensor) -> None:
    restored = weight.float() + torch.linspace(-1, 1, weight.numel()).view_as(weight) * other.float().abs().amax()
    exact = weight.double()
    size = exact.norm()
    expected = float((exact - restored.double()).norm() / size) if size else float(restored.double().norm())
    assert compute_relative_error(weight, restored) == pytest.approx(expected, rel=1e-3)
