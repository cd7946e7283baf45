"""Refuses, in the runner, a job that cannot fit into the memory there is, before anything is loaded."""

from pathlib import Path

from footprint import Footprint, ShapeError, in_gib, read_config
from jobs.specs import AnySpec, FinetuneSpec, KnownModel
from workers.handlers.contract import Context


def require_memory(spec: AnySpec, context: Context) -> None:
    """Compare what each step of the job needs with what is free; what may not be enough goes to the job's log.

    Raises:
        MemoryOccupiedError: what it needs at least is there, but others hold a part of it now: worth another attempt.
        InsufficientMemoryError: it is not there.
    """
    if isinstance(spec, FinetuneSpec):
        return  # the engine checks it, once it has chosen how the devices share the work
    from baichuan_core import memory  # noqa: PLC0415 - not in the worker's own process

    spec = spec.with_input(context.files)
    on_gpu = memory.chosen_device().type == "cuda"
    for field, folder in context.models.items():
        if field == "adapter" or (model := _known(folder)) is None:
            continue
        for needs in spec.footprints(model, on_gpu=on_gpu):
            memory.require_memory(needs, model.shape)
            _warn(needs, memory.free_bytes("cpu" if needs.place == "host" else None))


def _known(folder: Path) -> KnownModel | None:
    """What is known of a checkpoint; nothing of a GGUF file, which llama.cpp maps page by page."""
    try:
        return None if any(folder.glob("*.gguf")) else KnownModel.from_config(read_config(folder))
    except ShapeError:
        return None  # the engine says better what is wrong with it


def _warn(needs: Footprint, free: int) -> None:
    if needs.total > free:
        print(  # noqa: T201 - the job's log
            f"memory: up to {in_gib(needs.total)} with inputs of the longest kind, {in_gib(free)} are free; "
            "shorter lengths or smaller batches take less"
        )
