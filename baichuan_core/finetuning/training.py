"""The training itself: transformers' Trainer with our data, our progress reports and no half-made checkpoints."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from baichuan_core.errors import CheckpointError, TrainingDivergedError, UnsupportedError
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.data import EncodedExample
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.progress import Progress, ProgressCallback

TRAINER_STATE_FILE = "trainer_state.json"
KEPT_CHECKPOINTS = 2
TRAINING_STARTS = 0.05  # share of the whole operation
TRAINING_ENDS = 0.95


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where training runs and what it computes in, ``bfloat16`` being mixed precision."""

    device: str
    bfloat16: bool

    @property
    def is_cpu(self) -> bool:
        """Whether there is no GPU in it."""
        return self.device == "cpu"

    @classmethod
    def of(cls, options: FinetuningOptions) -> "Hardware":
        """What ``options`` ask for, with the gaps filled by what the machine has.

        Raises:
            UnsupportedError: A device that training cannot be sent to.
        """
        if options.device not in (None, "cpu", "cuda", "cuda:0"):
            raise UnsupportedError(
                f"device {options.device!r} cannot be trained on; use 'cpu' or 'cuda', and choose among several"
                " GPUs by CUDA_VISIBLE_DEVICES"
            )
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        bfloat16 = device != "cpu" if options.dtype is None else options.dtype == "bfloat16"
        return cls(device, bfloat16)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Outcome of a run.

    Attributes:
        final_loss: Loss of the last step.
        steps: Steps of the optimizer, those before a resumption included.
        resumed_from_step: Step that training continued from.
        filled: Fraction of the positions of all batches that were tokens, not padding; 1 if there were none.
    """

    final_loss: float
    steps: int
    resumed_from_step: int
    filled: float


def latest_checkpoint(checkpoints: Path | str) -> Path | None:
    """The newest complete checkpoint among those of an earlier run, None if there is none.

    The trainer writes ``trainer_state.json`` last, so that a checkpoint whose writer was killed has none.
    """
    steps = {step: path for path in Path(checkpoints).glob("checkpoint-*") if (step := _step_of(path)) is not None}
    return steps[max(steps)] if steps else None


def _step_of(checkpoint: Path) -> int | None:
    try:
        state: Any = json.loads((checkpoint / TRAINER_STATE_FILE).read_text(encoding="utf-8"))
        return int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train(
    model: nn.Module,
    examples: Sequence[EncodedExample],
    options: FinetuningOptions,
    *,
    collator: Collator,
    hardware: Hardware,
    checkpoints: Path,
    resume_from: Path | None,
    on_progress: ProgressCallback,
) -> TrainingResult:
    """Trains ``model`` in place.

    Raises:
        CheckpointError: ``resume_from`` is no complete checkpoint, or of the other method.
        TrainingDivergedError: The loss is no number any more.
    """
    resumed_from_step = 0
    if resume_from is not None:
        step = _step_of(resume_from)
        if step is None:
            raise CheckpointError(
                f"{resume_from.name} is not a complete training checkpoint; resume from another or from none"
            )
        if (resume_from / "adapter_config.json").is_file() != (options.method == "lora"):
            raise CheckpointError(
                f"{resume_from.name} was not written by the method {options.method!r}; resume from another or from none"
            )
        resumed_from_step = step
    trainer = OneDeviceTrainer(
        model=model,
        args=_arguments(options, hardware, checkpoints),
        train_dataset=_Examples(examples),
        data_collator=collator,
    )
    trainer.add_callback(ProgressReporter(on_progress, trainer))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainingResult(float(losses[-1]), trainer.state.global_step, resumed_from_step, trainer.filled)


def _arguments(options: FinetuningOptions, hardware: Hardware, checkpoints: Path) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler,
        warmup_steps=options.warmup_ratio,  # below 1 it is a share of all steps
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        activation_checkpointing=options.gradient_checkpointing,
        bf16=hardware.bfloat16,
        use_cpu=hardware.is_cpu,
        seed=options.seed,
        data_seed=options.seed,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=KEPT_CHECKPOINTS,
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=not hardware.is_cpu,
        disable_tqdm=True,
        report_to="none",
    )
    # With several visible GPUs and one process, the Trainer would wrap the model in DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class _Examples(Dataset[EncodedExample]):
    def __init__(self, examples: Sequence[EncodedExample]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> EncodedExample:
        return self.examples[index]


class OneDeviceTrainer(Trainer):
    """The Trainer, counting tokens and padding."""

    tokens = 0
    positions = 0

    @property
    def filled(self) -> float:
        """Fraction of the positions of all batches so far that were tokens."""
        return self.tokens / self.positions if self.positions else 1.0

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of one step of the optimizer."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self.tokens += sum(int((batch["attention_mask"] != 0).sum()) for batch in batches)
        self.positions += sum(batch["attention_mask"].numel() for batch in batches)
        return batches, items


@dataclass
class ProgressReporter(TrainerCallback):
    """Turns the trainer's log lines into progress reports, and stops at a loss that is no number."""

    on_progress: ProgressCallback
    trainer: OneDeviceTrainer
    tokens: int = 0
    seen_at: float = field(default_factory=time.monotonic)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of the token rate."""
        self.seen_at = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Report one step.

        Raises:
            TrainingDivergedError: The loss is NaN or infinite.
        """
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:  # the summary at the end
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at step {state.global_step}; lower learning_rate, raise warmup_ratio,"
                " or look for broken weights in the base checkpoint"
            )
        done = state.global_step / max(state.max_steps, 1)
        fraction = TRAINING_STARTS + (TRAINING_ENDS - TRAINING_STARTS) * done
        metrics = {
            "loss": loss,
            "learning_rate": float(logs.get("learning_rate", 0.0)),
            "step": float(state.global_step),
            "steps": float(state.max_steps),
            "epoch": float(state.epoch or 0.0),
            "tokens_per_second": self._token_rate(self.trainer.tokens),
        }
        self.on_progress(Progress(fraction, "training", metrics))

    def _token_rate(self, tokens: int) -> float:
        now = time.monotonic()
        rate = (tokens - self.tokens) / max(now - self.seen_at, 1e-9)
        self.tokens, self.seen_at = tokens, now
        return rate
