"""A LoRA adapter added to the weights of its base (Hu et al. 2021, arXiv 2106.09685)."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from baichuan_core.checkpoint import TensorReader, check_adapter
from baichuan_core.checkpoint.adapters import adapter_weights
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.errors import CheckpointError, UnsupportedError

from .dense import DenseTensors
from .rows import require_finite

_MATRIX = re.compile(r"^base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight$")
# Settings of peft with which an adapter is more than B · A, or something else.
_OTHER_KINDS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "layer_replication",
    "alora_invocation_tokens",
)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one weight: scale · B · A, with A [rank, in] and B [out, rank]."""

    a: Tensor
    b: Tensor
    scale: float


class Adapter:
    """The matrices of a LoRA adapter that belongs to a base.

    Args:
        adapter: Its directory.
        base: The checkpoint it was made for.

    Raises:
        CheckpointError: It is damaged, or of another base.
        UnsupportedError: It is of a kind that is more than two matrices a layer.
    """

    def __init__(self, adapter: Path, base: Path) -> None:
        check_adapter(adapter, base)
        try:
            settings: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
            if kinds := [name for name in _OTHER_KINDS if settings.get(name)]:
                raise UnsupportedError(f"{adapter} is no plain LoRA adapter ({kinds[0]}): merge it with peft")
            self.layers = _read(adapter, settings)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{adapter} is damaged ({error!r}): copy the adapter again, whole") from error

    def tensors(self, source: DenseTensors) -> Iterator[PlannedTensor]:
        """All tensors of the base in its dtype, with what the adapter adds in float32."""
        for name in source.names:
            change = self.layers.get(name)
            tensor = source.tensor(name)
            yield tensor if change is None else _changed(tensor, source.exact(name), change)


def _read(adapter: Path, settings: Mapping[str, Any]) -> dict[str, LowRank]:
    sides: dict[str, dict[str, Tensor]] = {}
    with TensorReader(adapter, adapter_weights(adapter)) as reader:
        for name in reader.names:
            found = _MATRIX.match(name)
            if found is None:
                raise UnsupportedError(f"{adapter} holds {name} beside its LoRA matrices: merge it with peft")
            # Copied, for the file is closed before they are used.
            sides.setdefault(found["layer"], {})[found["side"]] = reader.read(name).float().clone()
    return {
        f"{layer}.weight": LowRank(pair["A"], pair["B"], _scale(settings, layer, len(pair["A"])))
        for layer, pair in sides.items()
    }


def _scale(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank as peft computes it, with its alpha for single layers and with rank-stabilised scaling."""
    alpha = float(settings["lora_alpha"])
    for pattern, special in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = float(special)
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _changed(tensor: PlannedTensor, exact: PlannedTensor, change: LowRank) -> PlannedTensor:
    def rows(start: int, stop: int) -> Tensor:
        merged = exact.rows(start, stop).float().addmm_(change.b[start:stop], change.a, alpha=change.scale)
        result = merged.to(tensor.dtype)
        require_finite(result, tensor.name)
        return result

    return replace(tensor, rows=rows)
