"""Handler for finetune jobs, which fine-tune a checkpoint."""

from dataclasses import asdict, fields
from pathlib import Path

from baichuan_core.finetuning import FinetuningOptions, finetune
from baichuan_core.finetuning.distributed import Distribution
from baichuan_core.finetuning.resume_points import ignore_resume_point
from jobs.results import FinetuneResult
from jobs.specs import FinetuneSpec
from workers.handlers.contract import HandlerContext, HandlerOutcome, HandlerPlacement
from workers.handlers.earlier_training import find_resume_point
from workers.handlers.produced import describe_produced_model

RECORDS_FOLDER = "training"
SPEC_FIELD_BY_OPTION = {"lr_scheduler": "scheduler"}  # the spec's names for library options, where they differ
OPTIONS_SET_BY_WORKER = ("device",)


def estimate_output_bytes(spec: FinetuneSpec, checkpoint_bytes: int) -> int:
    """Estimate the output size: a full fine-tune writes the whole model; an adapter is small."""
    return checkpoint_bytes if spec.method == "full" else 0


def run(spec: FinetuneSpec, context: HandlerContext) -> HandlerOutcome[FinetuneResult]:
    """Train, continuing from the newest resume point of an earlier attempt, and write the result as a model."""
    points = context.resume_points
    try:
        report = finetune(
            context.models["model"],
            _find_training_data(spec, context),
            context.model_output,
            make_options(spec),
            checkpoints=context.checkpoints,
            validation_data=context.files.get("validation_file"),
            resume_from=find_resume_point(context),
            records=context.output / RECORDS_FOLDER,
            distribution=make_distribution(spec, context.placement),
            should_pause=context.should_pause,
            on_resume_point=points.schedule_upload if points else ignore_resume_point,
            on_progress=context.report,
        )
    finally:
        if points:
            points.flush()  # even after a failure, so that another machine can continue from the newest point
    model = describe_produced_model(context) if context.placement.node == 0 else None
    return HandlerOutcome(FinetuneResult(**asdict(report)), model)


def make_distribution(spec: FinetuneSpec, placement: HandlerPlacement) -> Distribution:
    """Return the distribution of the work over a job's devices: one process per device."""
    return Distribution(
        strategy=spec.strategy,
        deepspeed=spec.deepspeed,
        processes=placement.devices,
        nodes=placement.nodes,
        node_rank=placement.node,
        master_addr=placement.address,
        master_port=placement.port,
    )


def _find_training_data(spec: FinetuneSpec, context: HandlerContext) -> Path | dict[Path | str, float]:
    """Return the training file, or several training files with their weights."""
    if spec.training_files is None:
        return context.files["training_file"]
    return {context.files[f"training_files.{n}"]: each.weight for n, each in enumerate(spec.training_files)}


def make_options(spec: FinetuneSpec) -> FinetuningOptions:
    """Return the library's options for a spec."""
    names = [field.name for field in fields(FinetuningOptions) if field.name not in OPTIONS_SET_BY_WORKER]
    values = {name: getattr(spec, SPEC_FIELD_BY_OPTION.get(name, name)) for name in names}
    values["dtype"] = None if spec.dtype == "auto" else spec.dtype
    values["lora_target_modules"] = tuple(spec.lora_target_modules)
    values["report_to"] = tuple(spec.report_to)
    return FinetuningOptions(**values)
