"""Trains a model with transformers' Trainer, adding progress reports and validated resume points."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerState, TrainingArguments

from baichuan_core.errors import CheckpointError, TrainingPausedError
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.distributed.distribution import SINGLE_PROCESS_PLAN, DistributionPlan
from baichuan_core.finetuning.distributed.group import SINGLE_RANK, RankGroup
from baichuan_core.finetuning.example_store import EncodedExample
from baichuan_core.finetuning.hardware import Hardware
from baichuan_core.finetuning.identity import RunIdentity
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.finetuning.records import SeriesWriter, write_records
from baichuan_core.finetuning.resume_points import ResumePointCallback
from baichuan_core.finetuning.trackers import tracker_session
from baichuan_core.finetuning.trainer import (
    BaichuanTrainer,
    BestResumePointFinder,
    ExampleDataset,
    PauseCallback,
    ProgressReporter,
    RankSeedCallback,
)
from baichuan_core.progress import ProgressCallback

TRAINER_STATE_FILE = "trainer_state.json"
TRAINER_OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of training.

    Attributes:
        final_loss: Loss of the last step.
        steps: Number of optimizer steps, including those before the run was resumed.
        resumed_from_step: Step that training resumed from.
        filled: Fraction of the positions in all batches that held tokens, not padding; 1 if there were no batches.
        best_step: Step with the lowest evaluation loss, whose weights the model has now; None without evaluation.
        best_eval_loss: Evaluation loss at that step.
        stopped_early: Whether training stopped before its last step.
    """

    final_loss: float
    steps: int
    resumed_from_step: int
    filled: float
    best_step: int | None
    best_eval_loss: float | None
    stopped_early: bool


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The inputs of a training run, except its model and options.

    Attributes:
        identity: Identity of the run.
        examples: Examples to train on.
        validation: Examples to evaluate on; may be empty.
        collator: Makes batches.
        hardware: Device and dtype of the run.
        checkpoints: Directory for resume points.
        resume_from: Resume point to continue from; None starts from the base.
        records: Directory for the series and the plot; None writes neither.
        should_pause: Called after each step; if it returns true, the run pauses.
        notice: Callback that completes each resume point and reports it.
        plan: Distribution of the run.
        group: This rank.
    """

    identity: RunIdentity
    examples: Sequence[EncodedExample]
    validation: Sequence[EncodedExample]
    collator: Collator
    hardware: Hardware
    checkpoints: Path
    resume_from: Path | None
    records: Path | None
    should_pause: Callable[[], bool]
    notice: ResumePointCallback
    plan: DistributionPlan = SINGLE_PROCESS_PLAN
    group: RankGroup = SINGLE_RANK

    def make_training_arguments(self, options: FinetuningOptions) -> TrainingArguments:
        """Return the Trainer's settings. For ZeRO-3, call this before loading the model, so that it is partitioned."""
        if not self.group.is_main:  # only rank 0 reports to trackers; other machines may lack the packages
            options = replace(options, report_to=())
        return make_training_arguments(
            options, self.hardware, self.checkpoints, evaluates=bool(self.validation), plan=self.plan
        )


def find_latest_resume_point(checkpoints: Path | str) -> Path | None:
    """Return the newest complete resume point of an earlier run; None if there is none.

    Resume points without `trainer_state.json`, which the trainer writes last, are incomplete.
    """
    steps = {step: path for path in Path(checkpoints).glob("checkpoint-*") if (step := _read_step(path)) is not None}
    return steps[max(steps)] if steps else None


def _read_step(checkpoint: Path) -> int | None:
    try:
        state: Any = json.loads((checkpoint / TRAINER_STATE_FILE).read_text(encoding="utf-8"))
        return int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_resume_point(resume_from: Path, identity: RunIdentity) -> int:
    """Check that a resume point belongs to the same run, and return its step.

    Raises:
        CheckpointError: It is incomplete, or belongs to another run; the message lists the differences.
    """
    step = _read_step(resume_from)
    if step is None:
        raise CheckpointError(
            f"{resume_from.name} is not a complete resume point; resume from another one, or start without one"
        )
    identity.require_same_run(resume_from)
    return step


def train(
    model: nn.Module,
    options: FinetuningOptions,
    run: TrainingRun,
    arguments: TrainingArguments,
    *,
    on_progress: ProgressCallback,
) -> TrainingResult:
    """Train `model` in place.

    Raises:
        CheckpointError: The resume point is incomplete, or belongs to another run.
        TrainingDivergedError: The loss or a gradient is not finite.
        TrainingPausedError: The caller requested a pause; a resume point has been saved.
    """
    step = 0 if run.resume_from is None else check_resume_point(run.resume_from, run.identity)
    pause = PauseCallback(lambda: run.group.reduce_any(run.should_pause()))
    records = run.records if run.group.is_main else None
    trainer = BaichuanTrainer(
        identity=run.identity,
        validation=run.validation,
        group=run.group,
        model=model,
        args=arguments,
        train_dataset=ExampleDataset(run.examples),
        data_collator=run.collator,
        callbacks=[
            BestResumePointFinder(run.resume_from),
            RankSeedCallback(run.group),
            ProgressReporter(on_progress),
            pause,
            run.notice,
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if records is not None:
        trainer.add_callback(SeriesWriter(records))
    if options.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(options.early_stopping_patience))
    try:
        with tracker_session(options.report_to, run.records or run.checkpoints):
            trainer.train(resume_from_checkpoint=None if run.resume_from is None else str(run.resume_from))
    finally:
        if records is not None:
            write_records(records, trainer.state.log_history)
    if pause.paused:
        raise TrainingPausedError(f"paused after step {trainer.state.global_step} of {trainer.state.max_steps}")
    return _make_result(trainer.state, step, trainer.fill_ratio)


def _make_result(state: TrainerState, resumed_from_step: int, filled: float) -> TrainingResult:
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return TrainingResult(
        final_loss=float(losses[-1]),
        steps=state.global_step,
        resumed_from_step=resumed_from_step,
        filled=filled,
        best_step=state.best_global_step,
        best_eval_loss=state.best_metric,
        stopped_early=state.global_step < state.max_steps,
    )


def make_training_arguments(
    options: FinetuningOptions,
    hardware: Hardware,
    checkpoints: Path,
    *,
    evaluates: bool = False,
    plan: DistributionPlan = SINGLE_PROCESS_PLAN,
) -> TrainingArguments:
    """Return the Trainer's settings for our options."""
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler,
        warmup_steps=options.warmup_steps or options.warmup_ratio,  # a value below 1 is a fraction of all steps
        optim=TRAINER_OPTIMIZERS[options.optimizer],
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        adam_epsilon=options.adam_epsilon,
        max_grad_norm=options.max_grad_norm,
        neftune_noise_alpha=options.neftune_noise_alpha,
        activation_checkpointing=options.gradient_checkpointing,
        bf16=hardware.bfloat16,
        tf32=True if options.tf32 and not hardware.is_cpu else None,
        use_cpu=hardware.is_cpu,
        seed=options.seed,
        data_seed=options.seed,
        save_strategy=options.save_strategy,
        save_steps=options.save_steps,
        save_total_limit=options.save_total_limit,
        eval_strategy=("steps" if options.eval_steps else "epoch") if evaluates else "no",
        eval_steps=options.eval_steps,
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False,
        logging_steps=options.logging_steps,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=not hardware.is_cpu,
        disable_tqdm=True,
        report_to=list(options.report_to) or "none",
        **_make_distributed_arguments(plan),
    )
    # Not set above, because the Trainer's check would require resume points and evaluations at the same steps.
    arguments.load_best_model_at_end = evaluates
    # With several visible GPUs and one process, the Trainer would wrap the model in DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _make_distributed_arguments(plan: DistributionPlan) -> dict[str, Any]:
    """Return the Trainer's settings for a strategy."""
    match plan.strategy:
        case "single":
            return {}
        case "ddp":
            return {"ddp_find_unused_parameters": False}  # every trained weight has a gradient in every batch
        case "fsdp2":
            return {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}
        case "zero2" | "zero3" | "zero3-offload":
            return {"deepspeed": deepcopy(plan.deepspeed)}  # a copy, because the Trainer changes it
