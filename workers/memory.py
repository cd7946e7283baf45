"""Rejects a job in the runner, before anything is loaded, if it cannot fit in the available memory."""

from collections.abc import Sequence
from pathlib import Path

from footprint import Footprint, ShapeError, format_gib, read_config
from jobs.specs import AnySpec, FinetuneSpec, ModelProperties
from workers.handlers.contract import HandlerContext


def require_memory(spec: AnySpec, context: HandlerContext) -> None:
    """Compare the memory that each step of the job needs with the free memory; warn if it may not be enough.

    Release a model that is still loaded if it leaves too little memory.

    Raises:
        MemoryOccupiedError: The machine has the minimum, but other processes are using some of it now, so another
            attempt may succeed.
        InsufficientMemoryError: The machine does not have the minimum.
    """
    from baichuan_core import memory  # noqa: PLC0415 - keep it out of the worker's own process

    spec = spec.with_input(context.files)
    steps = _list_step_footprints(spec, context, on_gpu=memory.choose_device().type == "cuda")
    if context.loaded is not None and context.loaded.kept is not None:
        if _fits_alongside(context.loaded.kept.source.checkpoint, spec, steps):
            return
        context.loaded.release()
    for _, model, needs in steps:
        # For fine-tuning, the engine checks memory itself once it knows how the work is split across devices.
        if not isinstance(spec, FinetuneSpec):
            memory.require_memory(needs, model.shape)
        _warn_if_short(needs, _get_free_bytes(needs))


def _list_step_footprints(
    spec: AnySpec, context: HandlerContext, *, on_gpu: bool
) -> list[tuple[Path, ModelProperties, Footprint]]:
    """Return the memory that each step needs for each model, with the model's directory."""
    folders = [folder for field, folder in context.models.items() if field != "adapter"]
    known = [(folder, model) for folder in folders if (model := _read_model_properties(folder)) is not None]
    return [
        (folder, model, needs) for folder, model in known for needs in spec.estimate_footprints(model, on_gpu=on_gpu)
    ]


def _fits_alongside(loaded: Path, spec: AnySpec, steps: Sequence[tuple[Path, ModelProperties, Footprint]]) -> bool:
    """Whether the job uses the loaded model and has enough memory without releasing it."""
    weights = next((needs.weights for folder, _, needs in steps if folder == loaded), None)
    if weights is None:
        return False
    if spec.produces_model:  # such a job reads the weights from disk, so the loaded model only takes up memory
        return all(needs.total <= _get_free_bytes(needs) for _, _, needs in steps)
    return all(needs.least - weights <= _get_free_bytes(needs) for _, _, needs in steps)


def _get_free_bytes(needs: Footprint) -> int:
    from baichuan_core import memory  # noqa: PLC0415 - keep it out of the worker's own process

    return memory.free_bytes("cpu" if needs.place == "host" else None)


def _read_model_properties(folder: Path) -> ModelProperties | None:
    """Return the known properties of a checkpoint; None for a GGUF file, which llama.cpp maps page by page."""
    try:
        return None if any(folder.glob("*.gguf")) else ModelProperties.from_config(read_config(folder))
    except ShapeError:
        return None  # the engine will raise an error with a better message


def _warn_if_short(needs: Footprint, free: int) -> None:
    if needs.total > free:
        print(  # noqa: T201 - the job's log
            f"memory: inputs of maximum length need up to {format_gib(needs.total)}, but only {format_gib(free)} is"
            " free; shorter inputs or smaller batches need less"
        )
