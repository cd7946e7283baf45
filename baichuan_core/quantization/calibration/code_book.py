"""The sixteen values of a 4-bit code book, and the 8-bit scales of double quantization."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from baichuan_core.model.four_bits import import_bitsandbytes_functional

TABLE_STEPS = 1024  # number of entries between 0 and 1 in the table of nearest values
SCALES_PER_GROUP = 256  # number of 8-bit scales that share one float32 scale; bitsandbytes' default
MIN_GROUP_SCALE = 1e-30  # avoids a division by zero if all scales equal the offset


class CodeBook:
    """The NF4 or FP4 code book on one device.

    Attributes:
        name: "nf4" or "fp4".
        values: The sixteen values in ascending order, float32.
        codes: bitsandbytes' code for each value, uint8.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        book = import_bitsandbytes_functional().get_4bit_type(name, device="cpu").float()
        values, order = book.sort()
        self.values, self.codes = values.to(device), order.to(torch.uint8).to(device)
        self._bounds = (self.values[1:] + self.values[:-1]) / 2
        steps = torch.arange(-TABLE_STEPS, TABLE_STEPS + 1, device=device) / TABLE_STEPS
        self._table = self.values[self.find_nearest(steps)]

    def find_nearest(self, scaled: Tensor) -> Tensor:
        """Return the index of the nearest value for each number, int64 of the same shape."""
        positions: Tensor = torch.bucketize(scaled, self._bounds)
        return positions

    def round_approximately(self, scaled: Tensor) -> Tensor:
        """Round each number to approximately the nearest value, using a table with steps of 1/1024.

        This takes a fraction of the time of `find_nearest` and is accurate enough to compare scales.
        """
        index = scaled.mul(TABLE_STEPS).round_().add_(TABLE_STEPS).clamp_(0, 2 * TABLE_STEPS).to(torch.int32)
        values: Tensor = self._table[index]
        return values

    def pack_codes(self, positions: Tensor) -> Tensor:
        """Pack two codes per byte, the first in the high bits: uint8 [out, in] positions to uint8 [out * in / 2, 1]."""
        codes = self.codes[positions.reshape(-1).int()]
        packed: Tensor = codes[::2] << 4 | codes[1::2]
        return packed.unsqueeze(1)


@cache
def get_scale_code_book(device: torch.device) -> Tensor:
    """Return the values of bitsandbytes' dynamic 8-bit data type in ascending order, float32 [256]."""
    book: Tensor = import_bitsandbytes_functional().create_dynamic_map().to(device)
    return book


@dataclass(frozen=True, slots=True)
class BlockScales:
    """Scales of blocks of 64 values.

    Attributes:
        dequantized: Scales as a loaded checkpoint will have them, float32 [out, in / 64].
        codes: With double quantization, the 8-bit codes of the scales, uint8 [out * in / 64].
        largest: With double quantization, one float32 scale per 256 codes.
    """

    dequantized: Tensor
    codes: Tensor | None = None
    largest: Tensor | None = None


def quantize_scales(scales: Tensor, offset: Tensor) -> BlockScales:
    """Quantize scales to 8 bits, with one float32 scale per 256 of them (double quantization, Dettmers et al. 2023).

    Args:
        scales: Float32 [out, in / 64].
        offset: Value to subtract from the scales first.
    """
    book = get_scale_code_book(scales.device)
    distances = scales.reshape(-1) - offset
    count = distances.numel()
    padded = torch.nn.functional.pad(distances, (0, -count % SCALES_PER_GROUP)).reshape(-1, SCALES_PER_GROUP)
    # The book's highest value is 1, but its lowest, book[0], is above -1, so negative distances need a larger scale.
    largest = torch.maximum(padded.amax(dim=1), padded.amin(dim=1) / book[0]).clamp(min=MIN_GROUP_SCALE)
    codes = torch.bucketize(padded / largest[:, None], (book[1:] + book[:-1]) / 2)
    dequantized = (book[codes] * largest[:, None]).reshape(-1)[:count] + offset
    return BlockScales(dequantized.reshape(scales.shape), codes.reshape(-1)[:count].to(torch.uint8), largest)
