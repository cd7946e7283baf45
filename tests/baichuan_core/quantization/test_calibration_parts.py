"""Scales, codes and corrections of calibration, each compared with a simpler method that it must beat."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baichuan_core.model.four_bits import import_bitsandbytes_functional
from baichuan_core.quantization.calibration.code_book import CodeBook, get_scale_code_book, quantize_scales
from baichuan_core.quantization.calibration.compensation import quantize_with_compensation, search_scales
from baichuan_core.quantization.calibration.propagation import correct_weight
from baichuan_core.quantization.calibration.storage_format import build_stored_tensors, compute_scale_offset, dequantize

CPU = torch.device("cpu")
SHAPES = st.tuples(st.sampled_from([2, 5, 32]), st.sampled_from([64, 192, 320]))
SEEDS = st.integers(0, 1000)


def layer(shape: tuple[int, int], seed: int, tokens: int = 512) -> tuple[Tensor, Tensor]:
    """Create a weight, and correlated inputs [tokens, in] of different magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], generator=generator) / 8 + torch.eye(shape[1])
    sizes = torch.randn(shape[1], generator=generator).exp()
    inputs = torch.randn(tokens, shape[1], generator=generator) @ mixing * sizes
    return torch.randn(shape, generator=generator) / 20, inputs


def output_error(weight: Tensor, other: Tensor, inputs: Tensor) -> float:
    return float((inputs @ (weight - other).T).square().sum())


@given(SHAPES, SEEDS, st.sampled_from(["nf4", "fp4"]), st.booleans())
def test_codes_compensate_for_each_others_errors(shape: tuple[int, int], seed: int, name: str, double: bool) -> None:
    weight, inputs = layer(shape, seed)
    book = CodeBook(name, CPU)
    moments = inputs.T @ inputs / len(inputs)
    result = quantize_with_compensation(weight, moments, book, compute_scale_offset(weight) if double else None)
    scale = result.scales.dequantized.repeat_interleave(64, dim=1)
    nearest = book.values[book.find_nearest(weight / scale)] * scale  # same scales, rounded independently
    assert output_error(weight, result.dequantized, inputs) < 0.95 * output_error(weight, nearest, inputs)
    assert torch.equal(book.values[result.positions.int()] * scale, result.dequantized)


@given(SHAPES, SEEDS, st.sampled_from(["nf4", "fp4"]), st.booleans())
def test_bitsandbytes_reads_the_same_weight(shape: tuple[int, int], seed: int, name: str, double: bool) -> None:
    weight, inputs = layer(shape, seed)
    book, offset = CodeBook(name, CPU), compute_scale_offset(weight) if double else None
    result = quantize_with_compensation(weight, inputs.T @ inputs, book, offset)
    tensors = build_stored_tensors(result, book, offset, torch.float32)
    torch.testing.assert_close(dequantize(dict(tensors)), result.dequantized, rtol=1e-5, atol=1e-7)
    plain, state = import_bitsandbytes_functional().quantize_4bit(
        weight, blocksize=64, compress_statistics=double, quant_type=name
    )
    expected = {"weight": plain, **{f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}}
    assert {key: value.shape for key, value in tensors.items()} == {key: value.shape for key, value in expected.items()}


@given(SHAPES, SEEDS)
def test_searched_scales_are_no_worse_than_the_largest_magnitude(shape: tuple[int, int], seed: int) -> None:
    weight, inputs = layer(shape, seed)
    book, importance = CodeBook("nf4", CPU), inputs.square().mean(dim=0)

    def error(scales: Tensor) -> Tensor:
        scale = scales.repeat_interleave(64, dim=1)
        errors: Tensor = (book.values[book.find_nearest(weight / scale)] * scale - weight).square() * importance
        return errors.sum()

    largest = weight.unflatten(1, (-1, 64)).abs().amax(dim=-1)
    assert error(search_scales(weight, importance, book)) < 1.01 * error(largest)


@given(st.integers(1, 600), SEEDS, st.floats(1e-3, 1e3))
def test_scales_survive_their_eight_bits(count: int, seed: int, size: float) -> None:
    scales = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) * size
    offset = scales.mean()
    nested = quantize_scales(scales, offset)
    assert nested.codes is not None
    assert nested.largest is not None
    assert torch.allclose(nested.dequantized, scales, atol=0.02 * size)
    read = get_scale_code_book(CPU)[nested.codes.long()] * nested.largest.repeat_interleave(256)[:count] + offset
    assert torch.equal(read, nested.dequantized[:, 0])


@given(SHAPES, SEEDS)
def test_a_correction_improves_outputs(shape: tuple[int, int], seed: int) -> None:
    weight, wanted = layer(shape, seed)
    noise = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed + 1))
    inputs = wanted + 0.3 * noise * wanted.std(dim=0)
    drift = ((wanted - inputs) @ weight.T).T @ inputs / len(inputs)
    nearer = correct_weight(weight, drift, inputs.T @ inputs / len(inputs))
    assert (wanted @ weight.T - inputs @ nearer.T).square().sum() < output_error(weight, weight * 0, wanted - inputs)


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_all_zero_inputs_give_the_nearest_codes(name: str) -> None:
    weight, _ = layer((32, 128), 0)
    result = quantize_with_compensation(weight, torch.zeros(128, 128), CodeBook(name, CPU), None)
    assert (result.dequantized - weight).norm() / weight.norm() < 0.2
    zero = quantize_with_compensation(torch.zeros(32, 128), torch.eye(128), CodeBook(name, CPU), torch.tensor(0.0))
    assert not zero.dequantized.any()
