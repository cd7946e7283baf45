"""Fine-tune a checkpoint."""

from dataclasses import asdict, fields
from pathlib import Path

from baichuan_core.finetuning import FinetuningOptions, finetune, latest_checkpoint
from baichuan_core.finetuning.distributed import Distribution
from jobs.results import FinetuneResult
from jobs.specs import FinetuneSpec
from workers.handlers.contract import Context, Outcome, Place
from workers.handlers.produced import produced_model

RECORDS_FOLDER = "training"
OTHER_NAMES = {"lr_scheduler": "scheduler"}  # of the library's options in a spec
WORKERS_CHOICE = ("device",)


def output_bytes(spec: FinetuneSpec, checkpoint_bytes: int) -> int:
    """A full fine-tune writes the model anew; an adapter is small. The engine checks its own checkpoints."""
    return checkpoint_bytes if spec.method == "full" else 0


def run(spec: FinetuneSpec, context: Context) -> Outcome[FinetuneResult]:
    """Train, continuing from the newest resume point of an earlier attempt, and write the result as a model."""
    report = finetune(
        context.models["model"],
        context.files["training_file"],
        context.model_output,
        options_of(spec),
        checkpoints=context.checkpoints,
        validation_data=context.files.get("validation_file"),
        resume_from=_resume_from(context),
        records=context.output / RECORDS_FOLDER,
        distribution=distribution_of(spec, context.place),
        should_pause=context.should_pause,
        on_progress=context.report,
    )
    model = produced_model(context) if context.place.node == 0 else None
    return Outcome(FinetuneResult(**asdict(report)), model)


def distribution_of(spec: FinetuneSpec, place: Place) -> Distribution:
    """Return how the devices of a job share the work: one process per device."""
    return Distribution(
        strategy=spec.strategy,
        deepspeed=spec.deepspeed,
        processes=place.devices,
        nodes=place.nodes,
        node_rank=place.node,
        master_addr=place.address,
        master_port=place.port,
    )


def options_of(spec: FinetuneSpec) -> FinetuningOptions:
    """Return the library's options for a spec."""
    names = [field.name for field in fields(FinetuningOptions) if field.name not in WORKERS_CHOICE]
    values = {name: getattr(spec, OTHER_NAMES.get(name, name)) for name in names}
    values["dtype"] = None if spec.dtype == "auto" else spec.dtype
    values["lora_target_modules"] = tuple(spec.lora_target_modules)
    return FinetuningOptions(**values)


def _resume_from(context: Context) -> Path | None:
    return next((found for folder in context.earlier_checkpoints if (found := latest_checkpoint(folder))), None)
