"""Converts Baichuan 2's published 4-bit format to the tensors that transformers stores today.

A `pytorch_model.bin` in this format has two entries per linear layer. `<layer>.weight.data` contains the codes,
packed as they are today. `<layer>.weight.quant_state` is the list that `functional.quantize_4bit` of bitsandbytes 0.41
returned: absmax, shape, dtype, block size, quantization state of the absmax, and the name and values of the code book.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError
from baichuan_core.model.four_bits import import_bitsandbytes_functional

_CODES, _STATE = ".weight.data", ".weight.quant_state"


def is_published_int4(content: Mapping[str, object]) -> bool:
    """Return whether an unpickled file is in the published 4-bit format."""
    return any(name.endswith(_STATE) and isinstance(value, list) for name, value in content.items())


def import_published_int4(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """Return the codes and scales, bit for bit, under the names that transformers uses today.

    Args:
        content: Result of `torch.load(..., weights_only=True)`.
        file: Path of the file, for messages.

    Raises:
        CheckpointError: A layer is incomplete, or its state was not written by bitsandbytes 0.41.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if name.endswith(_STATE):
            layer = name.removesuffix(_STATE)
            codes = content.get(layer + _CODES)
            parts = _import_layer(codes, value, name, file)
            tensors |= {f"{layer}.{ending}": stored for ending, stored in parts.items()}
        elif name.endswith(_CODES):
            if name.removesuffix(_CODES) + _STATE not in content:
                raise CheckpointError(f"{file} lacks the quant_state of {name}: copy or download it again")
        elif isinstance(value, Tensor):
            tensors[name] = value.detach()
        else:
            raise CheckpointError(f"{file} contains {name}, which is not a tensor: copy or download it again")
    return tensors


def _import_layer(codes: object, state: object, name: str, file: Path) -> dict[str, Tensor]:
    try:
        if not isinstance(codes, Tensor) or codes.dtype != torch.uint8:
            raise TypeError("its codes are missing")  # noqa: TRY301 - one message covers every fault
        stored = _build_quant_state(state).as_dict(packed=True)
        return {"weight": codes.reshape(-1, 1), **{f"weight.{ending}": part for ending, part in stored.items()}}
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{name} in {file} is not a quantization state of bitsandbytes 0.41 ({error}): copy or download it again"
        ) from error


def _build_quant_state(state: Any) -> Any:
    absmax, shape, dtype, block_size, nested, quant_type, code = state
    functional = import_bitsandbytes_functional()
    if nested is None:
        offset, state2 = None, None
    else:
        offset, (absmax2, code2, block_size2, _, dtype2, *_) = nested
        state2 = functional.QuantState(absmax=absmax2, code=code2, blocksize=block_size2, dtype=dtype2)
    return functional.QuantState(
        absmax=absmax,
        shape=torch.Size(shape),
        dtype=dtype,
        blocksize=block_size,
        code=code,
        quant_type=quant_type,
        offset=offset,
        state2=state2,
    )
