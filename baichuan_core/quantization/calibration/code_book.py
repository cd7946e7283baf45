"""The sixteen values of a 4-bit code book, and the 8-bit numbers that double quantization makes of scales."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from baichuan_core.model.four_bits import bitsandbytes_functional

TABLE_STEPS = 1024  # entries of the table of nearest values between 0 and 1
SCALES_UNDER_ONE = 256  # scales that share one scale of their own, bitsandbytes' default
SMALLEST = 1e-30


class CodeBook:
    """NF4 or FP4 on one device.

    Attributes:
        name: "nf4" or "fp4".
        values: The sixteen values in rising order, float32.
        codes: bitsandbytes' code of each of them, uint8.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        book = bitsandbytes_functional().get_4bit_type(name, device="cpu").float()
        values, order = book.sort()
        self.values, self.codes = values.to(device), order.to(torch.uint8).to(device)
        self._bounds = (self.values[1:] + self.values[:-1]) / 2
        steps = torch.arange(-TABLE_STEPS, TABLE_STEPS + 1, device=device) / TABLE_STEPS
        self._table = self.values[self.positions(steps)]

    def positions(self, scaled: Tensor) -> Tensor:
        """Index of the nearest value for each number, int64 of the same shape."""
        positions: Tensor = torch.bucketize(scaled, self._bounds)
        return positions

    def nearly(self, scaled: Tensor) -> Tensor:
        """The nearest values, from a table in steps of 1/1024: for comparing scales, in a fraction of the time."""
        index = scaled.mul(TABLE_STEPS).round_().add_(TABLE_STEPS).clamp_(0, 2 * TABLE_STEPS).to(torch.int32)
        values: Tensor = self._table[index]
        return values

    def pack(self, positions: Tensor) -> Tensor:
        """Two codes a byte, the first in the upper half: uint8 [out, in] positions to uint8 [out * in / 2, 1]."""
        codes = self.codes[positions.reshape(-1).int()]
        packed: Tensor = codes[::2] << 4 | codes[1::2]
        return packed.unsqueeze(1)


@cache
def scale_code_book(device: torch.device) -> Tensor:
    """bitsandbytes' dynamic 8-bit numbers in rising order, float32 [256]."""
    book: Tensor = bitsandbytes_functional().create_dynamic_map().to(device)
    return book


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales of blocks of 64 values.

    Attributes:
        restored: As they will be read, float32 [out, in / 64].
        codes: With double quantization, their 8-bit codes, uint8 [out * in / 64].
        largest: With double quantization, the scale of each 256 of them, float32.
    """

    restored: Tensor
    codes: Tensor | None = None
    largest: Tensor | None = None


def nest(scales: Tensor, offset: Tensor) -> Scales:
    """Scales in 8 bits, 256 of them under one scale (Dettmers et al. 2023, arXiv 2305.14314, double quantization).

    Args:
        scales: Float32 [out, in / 64].
        offset: What is subtracted first.
    """
    book = scale_code_book(scales.device)
    distances = scales.reshape(-1) - offset
    count = distances.numel()
    padded = torch.nn.functional.pad(distances, (0, -count % SCALES_UNDER_ONE)).reshape(-1, SCALES_UNDER_ONE)
    # The lowest number is above -1, so a distance below zero is not the largest by itself.
    largest = torch.maximum(padded.amax(dim=1), padded.amin(dim=1) / book[0]).clamp(min=SMALLEST)
    codes = torch.bucketize(padded / largest[:, None], (book[1:] + book[:-1]) / 2)
    restored = (book[codes] * largest[:, None]).reshape(-1)[:count] + offset
    return Scales(restored.reshape(scales.shape), codes.reshape(-1)[:count].to(torch.uint8), largest)
