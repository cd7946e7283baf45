"""Fine-tune a checkpoint."""

from dataclasses import asdict
from pathlib import Path

from baichuan_core.finetuning import FinetuningOptions, finetune, latest_checkpoint
from jobs.results import FinetuneResult
from jobs.specs import FinetuneSpec
from workers.handlers.contract import Context, Outcome
from workers.handlers.produced import produced_model


def output_bytes(spec: FinetuneSpec, checkpoint_bytes: int) -> int:
    """A full fine-tune writes the model anew; an adapter is small. The engine checks its own checkpoints."""
    return checkpoint_bytes if spec.method == "full" else 0


def run(spec: FinetuneSpec, context: Context) -> Outcome[FinetuneResult]:
    """Train, going on from the newest checkpoint of an earlier attempt, and write the result as a model."""
    options = FinetuningOptions(
        method=spec.method,
        epochs=spec.epochs,
        learning_rate=spec.learning_rate,
        batch_size=spec.batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation_steps,
        max_length=spec.max_length,
        warmup_ratio=spec.warmup_ratio,
        weight_decay=spec.weight_decay,
        lr_scheduler=spec.scheduler,
        lora_rank=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        gradient_checkpointing=spec.gradient_checkpointing,
        save_steps=spec.save_steps,
        seed=spec.seed,
        dtype=None if spec.dtype == "auto" else spec.dtype,
    )
    report = finetune(
        context.models["model"],
        context.files["training_file"],
        context.model_output,
        options,
        checkpoints=context.checkpoints,
        resume_from=_resume_from(context),
        on_progress=context.report,
    )
    return Outcome(FinetuneResult(**asdict(report)), produced_model(context))


def _resume_from(context: Context) -> Path | None:
    return next((found for folder in context.earlier_checkpoints if (found := latest_checkpoint(folder))), None)
