"""Refuses, in the runner, a job that cannot fit into the memory there is, before anything is loaded."""

from footprint import ShapeError, in_gib, read_config
from jobs.memory import KnownModel, footprint_of
from jobs.specs import AnySpec
from workers.handlers.contract import Context


def require_memory(spec: AnySpec, context: Context) -> None:
    """Compare what the job needs with what is free; what may not be enough goes to the job's log.

    Raises:
        InsufficientMemoryError: what it needs at least is not there.
    """
    if any(context.models["model"].glob("*.gguf")):
        return  # mapped by llama.cpp, page by page
    from baichuan_core import memory  # noqa: PLC0415 - not in the worker's own process

    try:
        model = KnownModel.from_config(read_config(context.models["model"]))
    except ShapeError:
        return  # the engine says better what is wrong with it
    needs = footprint_of(spec, model, on_gpu=memory.chosen_device().type == "cuda")
    memory.require_memory(needs, model.shape)
    free = memory.free_bytes("cpu" if needs.place == "host" else None)
    if needs.total > free:
        print(  # noqa: T201 - the job's log
            f"memory: up to {in_gib(needs.total)} with inputs of the longest kind, {in_gib(free)} are free; "
            "shorter lengths or smaller batches take less"
        )
