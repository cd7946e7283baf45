"""transformers' Trainer, counting tokens, stopping at a loss that is not a number, evaluating without logits."""

import math
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from baichuan_core.errors import TrainingDivergedError
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.example_store import IGNORED_LABEL, EncodedExample
from baichuan_core.finetuning.identity import RunIdentity
from baichuan_core.progress import Progress, ProgressCallback

TRAINING_STARTS = 0.05  # fraction of the whole operation
TRAINING_ENDS = 0.95


class Examples(Dataset[EncodedExample]):
    """Encoded examples, as the Trainer takes them."""

    def __init__(self, examples: Sequence[EncodedExample]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> EncodedExample:
        return self.examples[index]


class BaichuanTrainer(Trainer):
    """The Trainer with our counts, evaluation and checks.

    Args:
        identity: Of the run, written into each resume point.
        validation: Examples to evaluate on.
        **settings: Of `transformers.Trainer`.
    """

    def __init__(self, *, identity: RunIdentity, validation: Sequence[EncodedExample], **settings: Any) -> None:
        super().__init__(eval_dataset=Examples(validation) if validation else None, **settings)
        self.identity = identity
        self.validation = validation
        self.tokens = self.positions = self.examples = 0
        self.logged = (0, 0, time.monotonic())
        self.begun: tuple[int, float] | None = None

    @property
    def filled(self) -> float:
        """Fraction of the positions of all batches so far that were tokens."""
        return self.tokens / self.positions if self.positions else 1.0

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of one step of the optimizer."""
        self.begun = self.begun or (self.state.global_step, time.monotonic())
        batches, items = super().get_batch_samples(*args, **kwargs)
        for mask in (batch["attention_mask"] for batch in batches):
            self.tokens += int((mask != 0).sum())
            self.positions += mask.numel()
            self.examples += int(mask.amax(dim=1).sum())  # examples of a row are numbered
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Differentiate one batch.

        Raises:
            TrainingDivergedError: The loss is NaN or infinite; the weights are still those of the step before.
        """
        loss: Tensor = super().training_step(*args, **kwargs)
        _require_finite("loss", float(loss), self.state.global_step + 1)
        return loss

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the mean loss per labelled token of the validation examples."""
        model = cast("nn.Module", self.model)
        model.eval()
        collate = cast("Collator", self.data_collator)
        labelled = sum(label != IGNORED_LABEL for example in self.validation for label in example.labels[1:])
        loss = 0.0
        size = self.args.per_device_eval_batch_size
        for start in range(0, len(self.validation), size):
            batch = self._prepare_inputs(collate(self.validation[start : start + size]))
            loss += float(model(**batch, num_items_in_batch=labelled, skip_logits=True).loss)
        model.train()
        metrics = {"eval_loss": loss}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log one step with its rates.

        Raises:
            TrainingDivergedError: The gradient is NaN or infinite.
        """
        if "loss" in logs:
            _require_finite("gradient norm", float(logs.get("grad_norm", 0.0)), self.state.global_step)
            logs |= self._rates()
        logs.pop("total_flos", None)
        super().log(logs, start_time)

    def _rates(self) -> dict[str, float]:
        now = time.monotonic()
        tokens, examples, before = self.logged
        seconds = max(now - before, 1e-9)
        rates = {
            "tokens_per_second": (self.tokens - tokens) / seconds,
            "samples_per_second": (self.examples - examples) / seconds,
            "memory_bytes": float(_peak_memory(self.args.device)),
        }
        if self.begun is not None and self.state.global_step > self.begun[0]:
            per_step = (now - self.begun[1]) / (self.state.global_step - self.begun[0])
            rates["eta_seconds"] = per_step * (self.state.max_steps - self.state.global_step)
        self.logged = (self.tokens, self.examples, now)
        return rates

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """Keep the best evaluation, and a resume point of its weights."""
        is_best: bool = super()._determine_best_metric(*args, **kwargs)
        if is_best:
            self.control.should_save = True
        return is_best

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(cast("str", self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        self.identity.write(folder)
        super()._save_checkpoint(*args, **kwargs)


def _require_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingDivergedError(
            f"the {name} is {value} at step {step}; lower learning_rate, raise warmup_ratio,"
            " or look for broken weights in the base checkpoint"
        )


def _peak_memory(device: torch.device) -> int:
    """Most bytes so far, on the GPU or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class ProgressReporter(TrainerCallback):
    """Turns the Trainer's log lines into progress reports."""

    def __init__(self, on_progress: ProgressCallback) -> None:
        self.on_progress = on_progress

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Report one step, or one evaluation."""
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs and "eval_loss" not in logs:  # the summary at the end
            return
        done = state.global_step / max(state.max_steps, 1)
        metrics = {name: float(value) for name, value in logs.items()}
        metrics |= {"step": float(state.global_step), "steps": float(state.max_steps), "epoch": float(state.epoch or 0)}
        stage = "training" if "loss" in logs else "evaluating"
        self.on_progress(Progress(TRAINING_STARTS + (TRAINING_ENDS - TRAINING_STARTS) * done, stage, metrics))


class Pause(TrainerCallback):
    """Saves a resume point and ends the training once the caller asks for it."""

    def __init__(self, should_pause: Callable[[], bool]) -> None:
        self.should_pause = should_pause
        self.paused = False

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Look after each step; after the last one there is nothing to pause."""
        if state.global_step < state.max_steps and self.should_pause():
            self.paused = control.should_save = control.should_training_stop = True


class BestKeeper(TrainerCallback):
    """Finds the best resume point of an earlier attempt again, which may have been moved."""

    def __init__(self, resume_from: Path | None) -> None:
        self.resume_from = resume_from

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Correct the path of the best resume point; forget it if it is missing."""
        if self.resume_from is None or state.best_model_checkpoint is None:
            return
        known = Path(state.best_model_checkpoint)
        found = next((path for path in (known, self.resume_from.parent / known.name) if path.is_dir()), None)
        state.best_model_checkpoint = None if found is None else str(found)
        if found is None:
            state.best_metric = state.best_global_step = None
