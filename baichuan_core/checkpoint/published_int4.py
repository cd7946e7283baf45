"""The 4-bit form that Baichuan 2 was published in, as the tensors that transformers stores today.

A `pytorch_model.bin` of it has for each linear layer `<layer>.weight.data`, packed codes as today's, and
`<layer>.weight.quant_state`, the list that bitsandbytes 0.41 kept beside them (its `functional.quantize_4bit`):
absmax, shape, dtype, block size, what the absmax are quantized with, the name and the values of the code book.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError
from baichuan_core.model.four_bits import bitsandbytes_functional

_CODES, _STATE = ".weight.data", ".weight.quant_state"


def holds_published_int4(content: Mapping[str, object]) -> bool:
    """Whether an unpickled file is of this form."""
    return any(name.endswith(_STATE) and isinstance(value, list) for name, value in content.items())


def import_published_int4(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """The same codes and scales, bit for bit, under the names of today.

    Args:
        content: What `torch.load(..., weights_only=True)` gave.
        file: For messages.

    Raises:
        CheckpointError: A layer is not whole, or its state is none of bitsandbytes 0.41.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if name.endswith(_STATE):
            layer = name.removesuffix(_STATE)
            codes = content.get(layer + _CODES)
            tensors |= {f"{layer}.{ending}": stored for ending, stored in _layer(codes, value, name, file).items()}
        elif name.endswith(_CODES):
            if name.removesuffix(_CODES) + _STATE not in content:
                raise CheckpointError(f"{file} lacks the quant_state of {name}: copy or download it again")
        elif isinstance(value, Tensor):
            tensors[name] = value.detach()
        else:
            raise CheckpointError(f"{file} holds {name}, which is no tensor: copy or download it again")
    return tensors


def _layer(codes: object, state: object, name: str, file: Path) -> dict[str, Tensor]:
    try:
        if not isinstance(codes, Tensor) or codes.dtype != torch.uint8:
            raise TypeError("its codes are missing")  # noqa: TRY301 - one message for all that can be wrong
        stored = _state_of(state).as_dict(packed=True)
        return {"weight": codes.reshape(-1, 1), **{f"weight.{ending}": part for ending, part in stored.items()}}
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{name} in {file} is no state of bitsandbytes 0.41 ({error}): download it again") from (
            error
        )


def _state_of(state: Any) -> Any:
    absmax, shape, dtype, block_size, nested, quant_type, code = state
    functional = bitsandbytes_functional()
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
