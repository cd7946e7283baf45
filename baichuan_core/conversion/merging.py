"""Merges a LoRA adapter into the weights of its base model (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from baichuan_core.checkpoint import EMBEDDING, HEAD, LoraAdapter
from baichuan_core.checkpoint.adapters import compute_initial_matrices
from baichuan_core.checkpoint.parallel_writer import PlannedTensor
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from checkpoint_files.adapter_layers import TensorRole

from .dense import DenseTensors
from .rows import require_finite

TIED_WEIGHTS = {EMBEDDING, HEAD}


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """The update that an adapter adds to one weight: scale · B · A, with A [rank, in] and B [out, rank].

    Attributes:
        magnitude: Norm of each row of the result, for DoRA (Liu et al. 2024, arXiv 2402.09353).
        initial: Returns the initial A and B, whose product was subtracted from the base weight; None if the base
            weight was not changed.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None
    initial: Callable[[], tuple[Tensor, Tensor]] | None


class AdapterMerger:
    """A LoRA adapter to merge into its base model.

    Args:
        adapter: Directory of the adapter.
        base: The checkpoint that the adapter was made for.
        config: Configuration of the base model.

    Raises:
        CheckpointError: The adapter is damaged, or was made for another base model.
        UnsupportedError: The adapter cannot be merged.
    """

    def __init__(self, adapter: Path, base: Path, config: BaichuanConfig) -> None:
        self._adapter = LoraAdapter.read(adapter, base)
        self._lock = Lock()
        saved = self._adapter.saved_modules
        if config.tie_word_embeddings and (tied := TIED_WEIGHTS & {f"{module}.weight" for module in saved}):
            raise UnsupportedError(
                f"{adapter} replaces {min(tied)} (modules_to_save), but {base} uses one weight as its embedding and "
                "head (tie_word_embeddings): use the adapter without merging it"
            )

    def merge(self, source: DenseTensors) -> Iterator[PlannedTensor]:
        """Yield all tensors of the merged model: replaced by the adapter, updated in float32, or unchanged."""
        for name in source.names:
            layer = name.removesuffix(".weight")
            parts, saved = self._adapter.layers.get(layer), self._adapter.saved_modules.get(layer)
            tensor = source.plan_tensor(name)
            if saved is not None:
                yield _replace_weight(tensor, saved)
            elif parts is None:
                yield tensor
            else:
                exact = source.plan_exact_tensor(name)
                yield _add_update(tensor, exact, self._build_update(layer, parts, exact))

    def _build_update(self, layer: str, parts: Mapping[TensorRole, Tensor], exact: PlannedTensor) -> LowRankUpdate:
        settings = self._adapter.settings
        magnitude = parts.get("magnitude")
        return LowRankUpdate(
            parts["A"].float(),
            parts["B"].float(),
            settings.scale(layer),
            None if magnitude is None else magnitude.float(),
            self._cache_matrices(lambda: compute_initial_matrices(settings, layer, _read_all_rows(exact)))
            if settings.changes_base
            else None,
        )

    def _cache_matrices(self, compute: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], tuple[Tensor, Tensor]]:
        """Return a function that computes the matrices on first use and caches them.

        Only one layer computes at a time, which saves memory.
        """
        cached = cache(compute)

        def get() -> tuple[Tensor, Tensor]:
            with self._lock:
                return cached()

        return get


def _read_all_rows(tensor: PlannedTensor) -> Tensor:
    return tensor.rows(0, tensor.shape[0]).float()


def _replace_weight(tensor: PlannedTensor, saved: Tensor) -> PlannedTensor:
    def compute_rows(start: int, stop: int) -> Tensor:
        result = saved[start:stop].to(tensor.dtype)
        require_finite(result, tensor.name)
        return result

    return replace(tensor, rows=compute_rows)


def _add_update(tensor: PlannedTensor, exact: PlannedTensor, update: LowRankUpdate) -> PlannedTensor:
    def compute_rows(start: int, stop: int) -> Tensor:
        merged = exact.rows(start, stop).float()
        if update.initial is not None:
            a, b = update.initial()
            # Round to the dtype of the base weight, as peft does.
            merged = merged.addmm(b[start:stop], a, alpha=-update.scale).to(exact.dtype).float()
        merged = merged.addmm_(update.b[start:stop], update.a, alpha=update.scale)
        if update.magnitude is not None:
            merged *= (update.magnitude[start:stop] / torch.linalg.vector_norm(merged, dim=1))[:, None]
        result = merged.to(tensor.dtype)
        require_finite(result, tensor.name)
        return result

    return replace(tensor, rows=compute_rows)
