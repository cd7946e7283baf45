"""Matrices as float32 for a core's cache, in numpy: torch would start threads for so little work.

On a machine with other work, threads wait for each other longer than they compute here.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 2**17


def float_chunks(values: Tensor, size: int = CHUNK) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Copies of `size` values at a time of a tensor on a CPU, flattened, with the places they come from."""
    flat = values.detach().contiguous().reshape(-1)
    # numpy has no bfloat16; its bits are the upper half of those of a float32.
    raw: NDArray[Any] = (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()
    for start in range(0, raw.size, size):
        chunk = raw[start : start + size]
        floats = (chunk.astype(np.int32) << 16).view(np.float32) if raw.dtype == np.int16 else chunk.astype(np.float32)
        yield slice(start, start + len(chunk)), floats
