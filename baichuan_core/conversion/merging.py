"""A LoRA adapter added to the weights of its base (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from baichuan_core.checkpoint import EMBEDDING, HEAD, LoraAdapter
from baichuan_core.checkpoint.adapters import initial_matrices
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from checkpoint_files.adapter_layers import Part

from .dense import DenseTensors
from .rows import require_finite

TIED = {EMBEDDING, HEAD}


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one weight: scale · B · A, with A [rank, in] and B [out, rank].

    Attributes:
        magnitude: Norm of each row of the result, for DoRA (Liu et al. 2024, arXiv 2402.09353).
        initial: Returns A and B at the start of training, whose product was taken from the base; None if nothing was.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None
    initial: Callable[[], tuple[Tensor, Tensor]] | None


class Adapter:
    """The matrices of a LoRA adapter that belongs to a base, and the weights that it replaces.

    Args:
        adapter: Its directory.
        base: The checkpoint it was made for.
        config: Configuration of the base.

    Raises:
        CheckpointError: It is damaged, or of another base.
        UnsupportedError: It is of a kind that cannot be merged.
    """

    def __init__(self, adapter: Path, base: Path, config: BaichuanConfig) -> None:
        self._adapter = LoraAdapter.read(adapter, base)
        self._lock = Lock()
        saved = self._adapter.saved_modules
        if config.tie_word_embeddings and (tied := TIED & {f"{module}.weight" for module in saved}):
            raise UnsupportedError(
                f"{adapter} replaces {min(tied)} (modules_to_save), but {base} uses one weight as embedding and head "
                "(tie_word_embeddings): use the adapter unmerged"
            )

    def tensors(self, source: DenseTensors) -> Iterator[PlannedTensor]:
        """All tensors of the base in its dtype, replaced or with what the adapter adds in float32."""
        for name in source.names:
            layer = name.removesuffix(".weight")
            parts, saved = self._adapter.layers.get(layer), self._adapter.saved_modules.get(layer)
            tensor = source.tensor(name)
            if saved is not None:
                yield _replaced(tensor, saved)
            elif parts is None:
                yield tensor
            else:
                exact = source.exact(name)
                yield _changed(tensor, exact, self._change(layer, parts, exact))

    def _change(self, layer: str, parts: Mapping[Part, Tensor], exact: PlannedTensor) -> LowRank:
        settings = self._adapter.settings
        magnitude = parts.get("magnitude")
        return LowRank(
            parts["A"].float(),
            parts["B"].float(),
            settings.scale(layer),
            None if magnitude is None else magnitude.float(),
            self._once(lambda: initial_matrices(settings, layer, _whole(exact))) if settings.changes_base else None,
        )

    def _once(self, compute: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], tuple[Tensor, Tensor]]:
        """Compute a value when the first thread asks for it, and those of one layer at a time: they take memory."""
        cached = cache(compute)

        def get() -> tuple[Tensor, Tensor]:
            with self._lock:
                return cached()

        return get


def _whole(tensor: PlannedTensor) -> Tensor:
    return tensor.rows(0, tensor.shape[0]).float()


def _replaced(tensor: PlannedTensor, saved: Tensor) -> PlannedTensor:
    def rows(start: int, stop: int) -> Tensor:
        result = saved[start:stop].to(tensor.dtype)
        require_finite(result, tensor.name)
        return result

    return replace(tensor, rows=rows)


def _changed(tensor: PlannedTensor, exact: PlannedTensor, change: LowRank) -> PlannedTensor:
    def rows(start: int, stop: int) -> Tensor:
        merged = exact.rows(start, stop).float()
        if change.initial is not None:
            a, b = change.initial()
            merged = merged.addmm(b[start:stop], a, alpha=-change.scale).to(exact.dtype).float()  # as peft rounds it
        merged = merged.addmm_(change.b[start:stop], change.a, alpha=change.scale)
        if change.magnitude is not None:
            merged *= (change.magnitude[start:stop] / torch.linalg.vector_norm(merged, dim=1))[:, None]
        result = merged.to(tensor.dtype)
        require_finite(result, tensor.name)
        return result

    return replace(tensor, rows=rows)
