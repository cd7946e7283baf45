"""Refuses, in the runner, a job that cannot fit into the memory there is, before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path

from footprint import Footprint, ShapeError, in_gib, read_config
from jobs.specs import AnySpec, FinetuneSpec, KnownModel
from workers.handlers.contract import Context


def require_memory(spec: AnySpec, context: Context) -> None:
    """Compare what each step of the job needs with what is free; what may not be enough goes to the job's log.

    A model that is still loaded and leaves too little is released.

    Raises:
        MemoryOccupiedError: what it needs at least is there, but others hold a part of it now: worth another attempt.
        InsufficientMemoryError: it is not there.
    """
    from baichuan_core import memory  # noqa: PLC0415 - not in the worker's own process

    spec = spec.with_input(context.files)
    steps = _list_steps(spec, context, on_gpu=memory.chosen_device().type == "cuda")
    if context.loaded is not None and context.loaded.kept is not None:
        if _fits_beside(context.loaded.kept.source.checkpoint, spec, steps):
            return
        context.loaded.release()
    for _, model, needs in steps:
        if not isinstance(spec, FinetuneSpec):  # the engine checks it when it knows how the devices share the work
            memory.require_memory(needs, model.shape)
        _warn(needs, _free_for(needs))


def _list_steps(spec: AnySpec, context: Context, *, on_gpu: bool) -> list[tuple[Path, KnownModel, Footprint]]:
    """Return the memory of each step on each model, with the model's directory."""
    folders = [folder for field, folder in context.models.items() if field != "adapter"]
    known = [(folder, model) for folder in folders if (model := _known(folder)) is not None]
    return [(folder, model, needs) for folder, model in known for needs in spec.footprints(model, on_gpu=on_gpu)]


def _fits_beside(loaded: Path, spec: AnySpec, steps: Sequence[tuple[Path, KnownModel, Footprint]]) -> bool:
    """Whether the job has the memory it needs although a model is loaded already, which is the first that it uses."""
    weights = next((needs.weights for folder, _, needs in steps if folder == loaded), None)
    if weights is None:
        return False
    if spec.produces_model:  # it first does other work while the model stays loaded
        return all(needs.total <= _free_for(needs) for _, _, needs in steps)
    return all(needs.least - weights <= _free_for(needs) for _, _, needs in steps)


def _free_for(needs: Footprint) -> int:
    from baichuan_core import memory  # noqa: PLC0415 - not in the worker's own process

    return memory.free_bytes("cpu" if needs.place == "host" else None)


def _known(folder: Path) -> KnownModel | None:
    """Return what is known about a checkpoint; None for a GGUF file, which llama.cpp maps page by page."""
    try:
        return None if any(folder.glob("*.gguf")) else KnownModel.from_config(read_config(folder))
    except ShapeError:
        return None  # the engine gives a better error message


def _warn(needs: Footprint, free: int) -> None:
    if needs.total > free:
        print(  # noqa: T201 - the job's log
            f"memory: up to {in_gib(needs.total)} with inputs of the longest kind, {in_gib(free)} are free; "
            "shorter lengths or smaller batches take less"
        )
