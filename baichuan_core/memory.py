"""How much memory an operation needs, how much there is, and how much it took.

The arithmetic is that of the package `footprint`, which needs no torch; here it meets the device.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from baichuan_core.errors import InsufficientMemoryError, MemoryOccupiedError
from baichuan_core.free_memory import chosen_device, free_bytes, total_bytes
from baichuan_core.out_of_memory import is_out_of_memory
from footprint import (
    PRESETS,
    Footprint,
    Precision,
    Shape,
    Training,
    cache_bytes,
    converting,
    finetuning,
    in_gib,
    inference,
    max_kept_prefix_tokens,
    quantizing,
    read_config,
    scoring,
    smaller_models,
    smaller_trainings,
)

__all__ = [
    "PRESETS",
    "Footprint",
    "Peak",
    "Precision",
    "Shape",
    "Training",
    "cache_bytes",
    "chosen_device",
    "converting",
    "explain_out_of_memory",
    "finetuning",
    "free_bytes",
    "in_gib",
    "inference",
    "max_kept_prefix_tokens",
    "peak_memory",
    "quantizing",
    "read_config",
    "require_memory",
    "scoring",
]


class Peak:
    """The most bytes that were allocated at once inside a `peak_memory` block, beyond those at its beginning."""

    bytes = 0


def require_memory(needs: Footprint, shape: Shape, *, device: str | torch.device | None = None) -> None:
    """Refuse what cannot fit, before it is loaded.

    Only `needs.least` is compared: short inputs and small batches may fit where the limits asked for do not.

    Args:
        needs: What the operation needs.
        shape: The model's, to say what would fit.
        device: Where it runs; the first GPU, or else the CPU, if not given.

    Raises:
        MemoryOccupiedError: It would fit if others held less.
        InsufficientMemoryError: It never will. Messages say what is needed, what is free, and what would fit.
    """
    where = torch.device("cpu") if needs.place == "host" else chosen_device(device)
    free, total = free_bytes(where), total_bytes(where)
    if needs.least <= free:
        return
    needed = f"this needs at least {in_gib(needs.least)} of memory and {where.type} has {in_gib(free)} free"
    remedy = _remedy(needs, shape, free)
    if needs.least <= total:
        raise MemoryOccupiedError(f"{needed} of {in_gib(total)}; wait until others need less, or {remedy}")
    raise InsufficientMemoryError(f"{needed}; {remedy}")


@contextmanager
def explain_out_of_memory(
    needs: Footprint, shape: Shape, *, device: str | torch.device | None = None
) -> Iterator[None]:
    """Say of a block that runs out of memory what `require_memory` says before it: the numbers, and what would fit.

    Args:
        needs: What the block was estimated to need.
        shape: The model's.
        device: Where it runs.

    Raises:
        MemoryOccupiedError: The device has as much as was estimated, so that others held a part of it.
        InsufficientMemoryError: It does not.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        where = torch.device("cpu") if needs.place == "host" else chosen_device(device)
        total = total_bytes(where)
        message = (
            f"{where.type} ran out of memory: this was estimated at {in_gib(needs.total)} and {where.type} has"
            f" {in_gib(total)}, of which others may hold a part; use a smaller batch_size or max_length, or"
            f" gradient_checkpointing; {_remedy(needs, shape, total)}"
        )
        kind = MemoryOccupiedError if needs.total <= total else InsufficientMemoryError
        raise kind(message) from error


def _remedy(needs: Footprint, shape: Shape, free: int) -> str:
    trains = needs.optimizer > 0
    ways = smaller_trainings(shape, needs.least) if trains else smaller_models(shape, needs.least)
    fitting = [f"{way}: {in_gib(least)}" for way, least in ways if least <= free] if needs.place == "device" else []
    return f"what would fit: {', '.join(fitting)}" if fitting else "use a machine with more"


@contextmanager
def peak_memory(device: str | torch.device | None = None) -> Iterator[Peak]:
    """Measure what a block allocates at most, by torch's own accounts of its allocators.

    Weights that are mapped from a file and never copied are no allocation, and what `prepack` lays out is oneDNN's.
    """
    measured = Peak()
    gc.collect()  # what is freed inside the block must not be older than it
    where = chosen_device(device)
    if where.type == "cuda":
        before = torch.cuda.memory_allocated(where)
        torch.cuda.reset_peak_memory_stats(where)
        yield measured
        measured.bytes = torch.cuda.max_memory_allocated(where) - before
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield measured
    measured.bytes = _highest_sum(profile)


def _highest_sum(profile: torch.profiler.profile) -> int:
    results = profile.profiler.kineto_results if profile.profiler is not None else None
    events = [event for event in results.events() if event.name() == "[memory]"] if results is not None else []
    allocated = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()  # type: ignore[attr-defined] # the stub lacks it
        highest = max(highest, allocated)
    return highest
