"""Checks whether an operation fits into memory, and measures how much memory it uses.

Estimates come from the package `footprint`, which does not need torch; this module compares them with the memory of
the device.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from baichuan_core.errors import InsufficientMemoryError, MemoryOccupiedError
from baichuan_core.free_memory import choose_device, free_bytes, total_bytes
from baichuan_core.out_of_memory import is_out_of_memory
from footprint import (
    PRESETS,
    Footprint,
    ModelShape,
    Precision,
    TrainingSettings,
    cache_bytes,
    compute_max_cached_prefix_tokens,
    estimate_conversion,
    estimate_finetuning,
    estimate_inference,
    estimate_quantization,
    estimate_scoring,
    find_smaller_finetuning_options,
    find_smaller_models,
    format_gib,
    read_config,
)

__all__ = [
    "PRESETS",
    "Footprint",
    "MemoryPeak",
    "ModelShape",
    "Precision",
    "TrainingSettings",
    "cache_bytes",
    "choose_device",
    "compute_max_cached_prefix_tokens",
    "estimate_conversion",
    "estimate_finetuning",
    "estimate_inference",
    "estimate_quantization",
    "estimate_scoring",
    "explain_out_of_memory",
    "format_gib",
    "free_bytes",
    "measure_peak_memory",
    "read_config",
    "require_memory",
]


class MemoryPeak:
    """The maximum number of bytes allocated inside a `measure_peak_memory` block, beyond those allocated before it."""

    bytes = 0


def require_memory(needs: Footprint, shape: ModelShape, *, device: str | torch.device | None = None) -> None:
    """Reject an operation that cannot fit into memory, before anything is loaded.

    Only the minimum, `needs.least`, is compared: short inputs and small batches may fit even if the largest ones that
    the options allow do not.

    Args:
        needs: Estimated memory of the operation.
        shape: Shape of the model, to suggest smaller alternatives.
        device: Device of the operation; by default the first GPU, or the CPU if there is no GPU.

    Raises:
        MemoryOccupiedError: The operation would fit if other processes used less memory.
        InsufficientMemoryError: The operation can never fit. The message contains the needed and the free memory, and
            alternatives that would fit.
    """
    where = torch.device("cpu") if needs.place == "host" else choose_device(device)
    free, total = free_bytes(where), total_bytes(where)
    if needs.least <= free:
        return
    least, available = format_gib(needs.least), format_gib(free)
    needed = f"the operation needs at least {least} of memory, but {where.type} has {available} free"
    remedy = _describe_remedy(needs, shape, free)
    if needs.least <= total:
        raise MemoryOccupiedError(f"{needed} of {format_gib(total)}; wait until other processes use less, or {remedy}")
    raise InsufficientMemoryError(f"{needed}; {remedy}")


@contextmanager
def explain_out_of_memory(
    needs: Footprint, shape: ModelShape, *, device: str | torch.device | None = None
) -> Iterator[None]:
    """Replace out-of-memory errors in a block with errors that state sizes and alternatives, as `require_memory` does.

    Args:
        needs: Estimated memory of the block.
        shape: Shape of the model.
        device: Device of the block.

    Raises:
        MemoryOccupiedError: The device has as much memory as estimated, so other processes used part of it.
        InsufficientMemoryError: The device has less memory than estimated.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        where = torch.device("cpu") if needs.place == "host" else choose_device(device)
        total = total_bytes(where)
        message = (
            f"{where.type} ran out of memory: the estimate was {format_gib(needs.total)}, and {where.type} has"
            f" {format_gib(total)} in total, some of which other processes may be using; use a smaller batch_size or"
            f" max_length, or gradient_checkpointing; {_describe_remedy(needs, shape, total)}"
        )
        kind = MemoryOccupiedError if needs.total <= total else InsufficientMemoryError
        raise kind(message) from error


def _describe_remedy(needs: Footprint, shape: ModelShape, free: int) -> str:
    trains = needs.optimizer > 0
    ways = find_smaller_finetuning_options(shape, needs.least) if trains else find_smaller_models(shape, needs.least)
    fitting = (
        [f"{way} ({format_gib(least)})" for way, least in ways if least <= free] if needs.place == "device" else []
    )
    return f"use an alternative that would fit: {', '.join(fitting)}" if fitting else "use a machine with more memory"


@contextmanager
def measure_peak_memory(device: str | torch.device | None = None) -> Iterator[MemoryPeak]:
    """Measure the peak memory of a block, as recorded by torch's allocators.

    Weights that are mapped from a file and never copied do not count, nor do the weights that `prepack` rearranges,
    which oneDNN allocates.
    """
    measured = MemoryPeak()
    gc.collect()  # otherwise the block might free memory that was allocated before it
    where = choose_device(device)
    if where.type == "cuda":
        before = torch.cuda.memory_allocated(where)
        torch.cuda.reset_peak_memory_stats(where)
        yield measured
        measured.bytes = torch.cuda.max_memory_allocated(where) - before
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield measured
    measured.bytes = _find_peak_bytes(profile)


def _find_peak_bytes(profile: torch.profiler.profile) -> int:
    results = profile.profiler.kineto_results if profile.profiler is not None else None
    events = [event for event in results.events() if event.name() == "[memory]"] if results is not None else []
    allocated = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()  # type: ignore[attr-defined] # missing in the stub
        highest = max(highest, allocated)
    return highest
