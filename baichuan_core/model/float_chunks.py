"""Converts tensors to float32 in chunks that fit into a core's cache, with numpy.

torch would start threads for each chunk; on a busy machine, they wait for each other longer than they compute.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VALUES_PER_CHUNK = 2**17


def iterate_float_chunks(values: Tensor, size: int = VALUES_PER_CHUNK) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield float32 copies of a flattened CPU tensor, `size` values at a time, each with its slice."""
    flat = values.detach().contiguous().reshape(-1)
    # numpy has no bfloat16, whose bits are the upper half of a float32.
    raw: NDArray[Any] = (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()
    for start in range(0, raw.size, size):
        chunk = raw[start : start + size]
        floats = (chunk.astype(np.int32) << 16).view(np.float32) if raw.dtype == np.int16 else chunk.astype(np.float32)
        yield slice(start, start + len(chunk)), floats
