"""transformers' Trainer, extended to count tokens, stop if the loss is not finite, and evaluate without logits."""

import math
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import DistributedType, PartialState
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from baichuan_core.errors import TrainingDivergedError, UnsupportedError
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.distributed.group import SINGLE_RANK, RankGroup
from baichuan_core.finetuning.distributed.rank_collator import RankCollator
from baichuan_core.finetuning.example_store import IGNORED_LABEL, EncodedExample
from baichuan_core.finetuning.identity import RunIdentity
from baichuan_core.progress import Progress, ProgressCallback

PROGRESS_BEFORE_TRAINING = 0.05  # fraction of the whole operation
PROGRESS_AFTER_TRAINING = 0.95


class ExampleDataset(Dataset[EncodedExample]):
    """Encoded examples as a torch `Dataset`."""

    def __init__(self, examples: Sequence[EncodedExample]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> EncodedExample:
        return self.examples[index]


class BaichuanTrainer(Trainer):
    """transformers' Trainer with our own token counts, evaluation and checks.

    Args:
        identity: Identity of the run, which is written into each resume point.
        validation: Examples to evaluate on.
        group: This rank, among the ranks that share each batch.
        **settings: Arguments of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        identity: RunIdentity,
        validation: Sequence[EncodedExample],
        group: RankGroup = SINGLE_RANK,
        **settings: Any,
    ) -> None:
        super().__init__(eval_dataset=ExampleDataset(validation) if validation else None, **settings)
        self.identity = identity
        self.validation = validation
        self.group = group
        self.part = RankCollator(cast("Collator", self.data_collator), group.rank, group.size)
        self.tokens = self.positions = self.examples = 0
        self.logged = (0, 0, time.monotonic())
        self.begun: tuple[int, float] | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """Set up accelerate, and check that it uses the requested strategy.

        Raises:
            UnsupportedError: accelerate would use a different strategy.
        """
        if self.args.fsdp and self.args.use_cpu:
            # On a CPU, accelerate would ignore FSDP and train with DDP, although torch's FSDP supports CPUs.
            PartialState().distributed_type = DistributedType.MULTI_GPU
        if self.args.fsdp and self.args.bf16:
            # The default policy would also reduce gradients and return losses in bfloat16.
            self.args.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )
        super().create_accelerator_and_postprocess()
        if (bool(self.args.fsdp), bool(self.args.deepspeed)) != (self.is_fsdp_enabled, self.is_deepspeed_enabled):
            raise UnsupportedError(
                f"this version of accelerate would train with {self.accelerator.distributed_type}, which was not"
                " requested; install the pinned version"
            )

    @property
    def fill_ratio(self) -> float:
        """Fraction of the positions in all batches so far that held tokens, not padding."""
        return self.tokens / self.positions if self.positions else 1.0

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader that reads whole batches and keeps this rank's share of each.

        The Trainer's own sharding would repeat examples to fill the last batch of an epoch.
        """
        if self.group.size == 1:
            return super().get_train_dataloader()
        dataset = cast("Dataset[EncodedExample]", self.train_dataset)
        whole = DataLoader(
            dataset,
            batch_size=self.args.per_device_train_batch_size * self.group.size,
            sampler=self._get_train_sampler(dataset),
            collate_fn=self.part,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = prepare_data_loader(
            whole,
            device=self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            use_seedable_sampler=True,
            data_seed=self.args.data_seed,
        )
        return prepared

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of one optimizer step, and count their tokens, positions and examples."""
        self.begun = self.begun or (self.state.global_step, time.monotonic())
        batches, items = super().get_batch_samples(*args, **kwargs)
        masks = [batch["attention_mask"] for batch in batches]
        tokens, positions, examples = self.group.reduce_sum(
            [
                sum(int((mask != 0).sum()) for mask in masks),
                sum(mask.numel() for mask in masks),
                # A mask numbers the examples in each row, so a row's largest value is its number of examples.
                sum(int(mask.amax(dim=1).sum()) for mask in masks),
            ],
            "cpu",
        )
        self.tokens += int(tokens)
        self.positions += int(positions)
        self.examples += int(examples)
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the forward and backward pass of one batch.

        Raises:
            TrainingDivergedError: The loss is NaN or infinite; the weights are still those of the previous step.
        """
        loss: Tensor = super().training_step(*args, **kwargs)
        _require_finite("loss", float(loss), self.state.global_step + 1)
        return loss

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the mean loss per labelled token of the validation examples."""
        model = cast("nn.Module", self.model)
        model.eval()
        labelled = sum(label != IGNORED_LABEL for example in self.validation for label in example.labels[1:])
        loss = 0.0
        size = self.args.per_device_eval_batch_size * self.group.size
        for start in range(0, len(self.validation), size):
            batch = self._prepare_inputs(self.part(self.validation[start : start + size]))
            loss += float(model(**batch, num_items_in_batch=labelled, skip_logits=True).loss)
        loss = self.group.reduce_sum([loss], "cpu")[0]
        model.train()
        metrics = {"eval_loss": loss}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log one step with its throughput, memory and remaining time.

        Raises:
            TrainingDivergedError: The gradient is NaN or infinite.
        """
        if "loss" in logs:
            _require_finite("gradient norm", float(logs.get("grad_norm", 0.0)), self.state.global_step)
            logs |= self._compute_rates()
        logs.pop("total_flos", None)
        super().log(logs, start_time)

    def _compute_rates(self) -> dict[str, float]:
        now = time.monotonic()
        tokens, examples, before = self.logged
        seconds = max(now - before, 1e-9)
        rates = {
            "tokens_per_second": (self.tokens - tokens) / seconds,
            "samples_per_second": (self.examples - examples) / seconds,
            "memory_bytes": float(_measure_peak_memory(self.args.device)),
        }
        if self.begun is not None and self.state.global_step > self.begun[0]:
            per_step = (now - self.begun[1]) / (self.state.global_step - self.begun[0])
            rates["eta_seconds"] = per_step * (self.state.max_steps - self.state.global_step)
        self.logged = (self.tokens, self.examples, now)
        return rates

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """Save a resume point if the evaluation is the best so far."""
        is_best: bool = super()._determine_best_metric(*args, **kwargs)
        if is_best:
            self.control.should_save = True
        return is_best

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(cast("str", self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        if self.group.is_main:
            self.identity.write(folder)
        super()._save_checkpoint(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights of a resume point, except with FSDP and DeepSpeed, which write their own files."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            super().save_model(output_dir, _internal_call)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.group.wait_for_all()  # rank 0 may complete the resume point only after all ranks have written their files


def _require_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingDivergedError(
            f"the {name} is {value} at step {step}; decrease learning_rate, increase warmup_ratio,"
            " or check the base checkpoint for damaged weights"
        )


def _measure_peak_memory(device: torch.device) -> int:
    """Return the peak memory use so far, in bytes: GPU memory, or the memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class ProgressReporter(TrainerCallback):
    """Callback that reports the Trainer's log entries as progress."""

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
        if "loss" not in logs and "eval_loss" not in logs:  # the Trainer's final summary
            return
        done = state.global_step / max(state.max_steps, 1)
        metrics = {name: float(value) for name, value in logs.items()}
        metrics |= {"step": float(state.global_step), "steps": float(state.max_steps), "epoch": float(state.epoch or 0)}
        stage = "training" if "loss" in logs else "evaluating"
        self.on_progress(
            Progress(
                PROGRESS_BEFORE_TRAINING + (PROGRESS_AFTER_TRAINING - PROGRESS_BEFORE_TRAINING) * done, stage, metrics
            )
        )


class PauseCallback(TrainerCallback):
    """Callback that saves a resume point and stops the training if the caller requests it."""

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
        """Check for a pause request after each step except the last."""
        if state.global_step < state.max_steps and self.should_pause():
            self.paused = control.should_save = control.should_training_stop = True


class RankSeedCallback(TrainerCallback):
    """Callback that seeds the random generators of each rank, for dropout and noise; resuming restores their state."""

    def __init__(self, group: RankGroup) -> None:
        self.group = group

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Set the seed of all ranks but rank 0, which uses the same random numbers as a run with one process."""
        if self.group.rank > 0:
            torch.manual_seed(args.seed + self.group.rank)


class BestResumePointFinder(TrainerCallback):
    """Callback that finds the best resume point of an earlier attempt, whose directory may have been moved."""

    def __init__(self, resume_from: Path | None) -> None:
        self.resume_from = resume_from

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Correct the path of the best resume point, or discard it if it is missing."""
        if self.resume_from is None or state.best_model_checkpoint is None:
            return
        known = Path(state.best_model_checkpoint)
        found = next((path for path in (known, self.resume_from.parent / known.name) if path.is_dir()), None)
        state.best_model_checkpoint = None if found is None else str(found)
        if found is None:
            state.best_metric = state.best_global_step = None
