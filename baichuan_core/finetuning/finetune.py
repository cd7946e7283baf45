"""Fine-tunes a checkpoint on training data, and writes a new checkpoint or an adapter."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel

from baichuan_core.checkpoint import (
    copy_companion_files,
    is_quantized,
    load_tokenizer,
    make_directory,
    read_config,
    require_space,
    staged_output,
    write_base_identity,
)
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.errors import DatasetError, UnsupportedError
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.data import (
    TrainingData,
    combine_training_data,
    load_training_data,
    split_training_data,
)
from baichuan_core.finetuning.distributed.agreement import require_same_inputs, require_shared_directory
from baichuan_core.finetuning.distributed.distribution import Distribution, DistributionPlan
from baichuan_core.finetuning.distributed.gathering import count_trained_parameters, gather_trained_weights
from baichuan_core.finetuning.distributed.group import SINGLE_RANK, RankGroup
from baichuan_core.finetuning.distributed.hidden_deepspeed import hide_deepspeed
from baichuan_core.finetuning.distributed.launcher import launch_ranks
from baichuan_core.finetuning.distributed.messages import RunArguments
from baichuan_core.finetuning.distributed.planning import plan_run
from baichuan_core.finetuning.example_store import ExampleStore, StoredExamples
from baichuan_core.finetuning.hardware import Hardware
from baichuan_core.finetuning.identity import RunIdentity
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.finetuning.records import write_plan
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.finetuning.resume_points import ResumePointCallback, ignore_resume_point
from baichuan_core.finetuning.trackers import require_trackers
from baichuan_core.finetuning.trainable import load_trainable_model, make_model_with_weights, require_training_memory
from baichuan_core.finetuning.trainer import PROGRESS_AFTER_TRAINING
from baichuan_core.finetuning.training import TrainingResult, TrainingRun, check_resume_point, train
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress
from baichuan_core.tokenizer import BaichuanTokenizer, ChatStyle, choose_chat_format, read_generation_settings

# A resume point contains the weights and AdamW's two moments in float32.
RESUME_POINT_BYTES_PER_WEIGHT = 12
BYTES_PER_SAVED_WEIGHT = 4


@dataclass(frozen=True, slots=True)
class _Datasets:
    """The data to train and evaluate on."""

    training: TrainingData
    validation: TrainingData | None
    chat_style: ChatStyle

    @property
    def validation_examples(self) -> StoredExamples | None:
        """The examples to evaluate on, if any."""
        return None if self.validation is None else self.validation.examples


def never_pause() -> bool:
    """Return False; the default for `should_pause`."""
    return False


def finetune(  # noqa: PLR0913 - each argument is an input or output of a run
    checkpoint: Path | str,
    training_data: Path | str | Mapping[Path | str, float],
    output: Path | str,
    options: FinetuningOptions | None = None,
    *,
    checkpoints: Path | str,
    validation_data: Path | str | None = None,
    resume_from: Path | str | None = None,
    records: Path | str | None = None,
    distribution: Distribution | None = None,
    should_pause: Callable[[], bool] = never_pause,
    on_resume_point: Callable[[Path], None] = ignore_resume_point,
    on_progress: ProgressCallback = ignore_progress,
) -> FinetuningReport:
    """Fine-tune a checkpoint on conversations or text.

    A run that was killed and resumes from its last resume point produces the same weights as an uninterrupted one.

    Args:
        checkpoint: Directory of the base checkpoint; a quantized one supports only the method `lora`.
        training_data: A file of examples in any of the formats of `docs/finetuning.md` (JSON, JSONL or plain text), or
            several files with weights: 2 uses every example twice, 0.5 uses a random half of them.
        output: Directory to create: a complete checkpoint (`full`) or an adapter (`lora`).
        options: Training options.
        checkpoints: Directory for resume points, used only by this run.
        validation_data: Examples to evaluate on, in the format of the training data; the resume point with the lowest
            loss on them becomes the result.
        resume_from: A resume point, see `find_latest_resume_point`.
        records: Directory for the losses and rates as JSON lines, a plot, and TensorBoard files if the package
            `tensorboard` is installed.
        distribution: Processes, machines and strategy; None trains in this process, on one device. Otherwise this
            call starts the processes of this machine (`docs/finetuning.md`, "Several GPUs and machines"). Results and
            records are written on machine 0.
        should_pause: Called after each step; if true, the run saves a resume point and raises TrainingPausedError.
        on_resume_point: Called between two steps with the folder of each complete resume point. Its weights can be
            loaded like those of the result; those of `full` are in float32.
        on_progress: Called in the stages `loading`, `training`, `evaluating` and `writing`, with the loss, the
            learning rate, the gradient norm, the step, rates, memory and the remaining seconds.

    Raises:
        DatasetError: The data is malformed, or no example has an answer; the message names the line.
        CheckpointError: The base is damaged, `resume_from` is damaged or belongs to another run, `output` exists, or
            `output` or `checkpoints` cannot be written.
        TokenizerError: The base has no tokenizer.
        UnsupportedError: Base, method, device and strategy are incompatible, or the DeepSpeed configuration is invalid.
        InsufficientMemoryError: The devices have too little memory for weights, gradients and optimizer.
        RankFailedError: A process was killed or failed unexpectedly; a call with `resume_from` continues the run.
        InsufficientSpaceError: The disk has too little space for the result and the resume points.
        TrainingDivergedError: The loss or a gradient is not finite; the last resume point remains.
        TrainingPausedError: `should_pause` returned true; a call with `resume_from` continues the run.
    """
    options = options or FinetuningOptions()
    weights = training_data if isinstance(training_data, Mapping) else {training_data: 1.0}
    inputs = RunArguments(
        checkpoint=Path(checkpoint),
        training_data={str(file): weight for file, weight in weights.items()},
        output=Path(output),
        options=options,
        checkpoints=Path(checkpoints),
        validation_data=None if validation_data is None else Path(validation_data),
        resume_from=None if resume_from is None else Path(resume_from),
        records=None if records is None else Path(records),
    )
    if distribution is None or distribution.node_rank == 0:
        require_trackers(options.report_to)
    plan = plan_run(inputs.checkpoint, options, distribution)
    if plan.is_single_process:
        return run_finetuning(
            inputs,
            plan,
            SINGLE_RANK,
            should_pause=should_pause,
            on_resume_point=on_resume_point,
            on_progress=on_progress,
        )
    return launch_ranks(
        inputs,
        plan,
        on_gpu=not Hardware.from_options(options).is_cpu,
        should_pause=should_pause,
        on_resume_point=on_resume_point,
        on_progress=on_progress,
    )


def run_finetuning(
    inputs: RunArguments,
    plan: DistributionPlan,
    group: RankGroup,
    *,
    should_pause: Callable[[], bool],
    on_resume_point: Callable[[Path], None],
    on_progress: ProgressCallback,
) -> FinetuningReport:
    """Run one rank of a fine-tuning run in this process. See `finetune`; rank 0 writes the result."""
    with hide_deepspeed() if plan.deepspeed is None else nullcontext():
        return _run_one_rank(inputs, plan, group, should_pause, on_resume_point, on_progress)


def _run_one_rank(
    inputs: RunArguments,
    plan: DistributionPlan,
    group: RankGroup,
    should_pause: Callable[[], bool],
    on_resume_point: Callable[[Path], None],
    on_progress: ProgressCallback,
) -> FinetuningReport:
    options, checkpoint = inputs.options, inputs.checkpoint
    on_progress(Progress(0.0, "loading"))
    config = read_config(checkpoint)
    hardware = Hardware.from_options(options, group)
    _check_method(config, options)
    _check_validation(inputs.validation_data, options)
    tokenizer = load_tokenizer(checkpoint)
    make_directory(inputs.checkpoints)
    store = ExampleStore(inputs.checkpoints)  # this disk must have room for resume points anyway
    data = _read_datasets(checkpoint, config, tokenizer, inputs.training_data, inputs.validation_data, options, store)
    identity = RunIdentity.from_inputs(checkpoint, data.training.examples, data.validation_examples, options, plan)
    require_same_inputs(identity, group)
    run = TrainingRun(
        identity=identity,
        examples=data.training.examples,
        validation=data.validation_examples or (),
        collator=Collator(tokenizer.pad_token_id, _get_max_length(config, options) if options.packing else None),
        hardware=hardware,
        checkpoints=inputs.checkpoints,
        resume_from=inputs.resume_from,
        records=inputs.records,
        should_pause=should_pause,
        notice=ResumePointCallback(checkpoint, config, on_resume_point),
        plan=plan,
        group=group,
    )
    if run.records is not None and group.is_main and not plan.is_single_process:
        write_plan(run.records, plan)
    require_shared_directory(run.checkpoints, group)
    with (
        require_training_memory(checkpoint, options, hardware, data.training.max_example_tokens, plan, group),
        staged_output(inputs.output) if group.is_main else nullcontext() as staging,
    ):
        if run.resume_from is not None:
            check_resume_point(run.resume_from, identity)
        arguments = run.make_training_arguments(options)
        model = load_trainable_model(checkpoint, options, hardware, plan)
        trained = count_trained_parameters(model)
        if staging is not None:
            require_space(inputs.output, trained * BYTES_PER_SAVED_WEIGHT)
            # A new resume point is written before the oldest one is deleted.
            require_space(run.checkpoints, trained * RESUME_POINT_BYTES_PER_WEIGHT * (options.save_total_limit + 1))
        result = train(model, options, run, arguments, on_progress=on_progress)
        on_progress(Progress(PROGRESS_AFTER_TRAINING, "writing"))
        _write_result(model, checkpoint, config, plan, staging)
    on_progress(Progress(1.0, "writing"))
    return _make_report(data, trained, result, options)


def _make_report(
    data: _Datasets, trained_parameters: int, result: TrainingResult, options: FinetuningOptions
) -> FinetuningReport:
    return FinetuningReport(
        final_loss=result.final_loss,
        steps=result.steps,
        examples=len(data.training.examples),
        tokens=data.training.tokens,
        dropped_examples=data.training.dropped,
        truncated_examples=data.training.truncated,
        validation_examples=len(data.validation_examples or ()),
        trained_parameters=trained_parameters,
        resumed_from_step=result.resumed_from_step,
        packing=options.packing,
        filled=result.filled,
        data_format=data.training.format,
        chat_format=None if data.training.format == "text" else data.chat_style,
        best_step=result.best_step,
        best_eval_loss=result.best_eval_loss,
        stopped_early=result.stopped_early,
    )


def _check_method(config: BaichuanConfig, options: FinetuningOptions) -> None:
    if options.method == "full" and is_quantized(config):
        raise UnsupportedError(
            "a quantized checkpoint cannot be trained in full; use method 'lora', or the unquantized checkpoint"
        )
    if "lm_head" in options.lora_target_modules and options.method == "lora" and config.quantize_head:
        raise UnsupportedError(
            "lora_target_modules contains 'lm_head', which this checkpoint stores in 8 bits; remove 'lm_head'"
        )


def _read_datasets(
    checkpoint: Path,
    config: BaichuanConfig,
    tokenizer: BaichuanTokenizer,
    training: Mapping[str, float],
    validation: Path | None,
    options: FinetuningOptions,
    store: ExampleStore,
) -> _Datasets:
    longest = _get_max_length(config, options)
    chat_format = choose_chat_format(tokenizer, config, read_generation_settings(checkpoint))
    load = partial(load_training_data, tokenizer, max_length=longest, chat_format=chat_format, store=store)
    parts = [_load_one_file(load, Path(file)) if len(training) > 1 else load(Path(file)) for file in training]
    held_back = None
    if validation is not None:
        held_back = load(validation)
        _require_same_format(parts, held_back)
    elif options.validation_split:
        pairs = [split_training_data(part, options.validation_split, options.seed) for part in parts]
        parts = [remaining for remaining, _ in pairs]
        held_back = combine_training_data([held for _, held in pairs], [1.0] * len(pairs), options.seed)
    combined = combine_training_data(parts, list(training.values()), options.seed)
    return _Datasets(combined, held_back, chat_format.style)


def _load_one_file(load: Callable[[Path], TrainingData], file: Path) -> TrainingData:
    """Load one of several files, and include its name in errors."""
    try:
        return load(file)
    except DatasetError as error:
        raise DatasetError(f"{file.name}: {error}") from error


def _check_validation(validation: Path | str | None, options: FinetuningOptions) -> None:
    if validation is not None and options.validation_split:
        raise DatasetError("validation data and validation_split are both given; leave one out")
    evaluates = validation is not None or options.validation_split
    for name in ("eval_steps", "early_stopping_patience"):
        if getattr(options, name) is not None and not evaluates:
            raise DatasetError(
                f"{name} is set, but there are no examples to evaluate on; pass validation data or set validation_split"
            )


def _require_same_format(parts: Sequence[TrainingData], validation: TrainingData) -> None:
    """Reject validation data in a different format, because it is most likely the wrong file."""
    formats = {part.format for part in parts}
    published = {"published", "sharegpt"}
    if validation.format not in formats and not (validation.format in published and formats & published):
        raise DatasetError(
            f"the validation data is in the format {validation.format!r} and the training data in"
            f" {', '.join(map(repr, sorted(formats)))}; use one format for both"
        )


def _get_max_length(config: BaichuanConfig, options: FinetuningOptions) -> int:
    """Return the maximum number of tokens per example.

    Raises:
        DatasetError: `max_length` exceeds the model's context length.
    """
    window = config.model_max_length or DEFAULT_CONTEXT_LENGTH
    if options.max_length is not None and options.max_length > window:
        raise DatasetError(f"max_length is {options.max_length}; the model's context length allows at most {window}")
    return options.max_length or window


def _write_result(
    model: BaichuanForCausalLM | PeftModel,
    checkpoint: Path,
    config: BaichuanConfig,
    plan: DistributionPlan,
    staging: Path | None,
) -> None:
    """Write the result to `staging`, which only rank 0 has; every rank must call this."""
    weights = None if plan.is_single_process else gather_trained_weights(model, plan)
    if staging is None:
        return
    if isinstance(model, PeftModel):
        model.save_pretrained(str(staging), state_dict=weights)
        (staging / "README.md").unlink(missing_ok=True)  # peft writes an empty model card
        write_base_identity(staging, checkpoint)
    else:
        complete = model if weights is None else make_model_with_weights(config, weights)
        complete.config.use_cache = config.use_cache  # restores the setting that the Trainer disabled
        if isinstance(config.dtype, torch.dtype):
            complete.type(config.dtype)
        complete.save_pretrained(staging)
    copy_companion_files(checkpoint, staging)
