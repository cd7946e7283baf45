"""The fine-tuning run: a checkpoint and conversations in, a checkpoint or an adapter out."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model

from baichuan_core.checkpoint import (
    copy_companions,
    is_quantized,
    load_model,
    load_tokenizer,
    make_directory,
    read_config,
    require_space,
    staged_output,
    write_adapter_identity,
)
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.errors import DatasetError, UnsupportedError
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.data import TrainingData, encode_training_data, read_conversations
from baichuan_core.finetuning.options import FinetuningOptions, FinetuningReport
from baichuan_core.finetuning.training import TRAINING_ENDS, Hardware, TrainingResult, train
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat

LORA_TARGETS = ["W_pack"]  # Baichuan2's fine-tune.py
# A training checkpoint holds the weights and AdamW's two moments in float32; one more than is kept is being written.
BYTES_OF_A_TRAINED_NUMBER = 12
BYTES_OF_A_WRITTEN_NUMBER = 4
CHECKPOINTS_AT_ONCE = 3


def finetune(
    checkpoint: Path | str,
    training_data: Path | str,
    output: Path | str,
    options: FinetuningOptions | None = None,
    *,
    checkpoints: Path | str,
    resume_from: Path | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> FinetuningReport:
    """Fine-tunes a checkpoint on conversations.

    A run that was killed and goes on from its last checkpoint ends with the weights of an uninterrupted one.

    Args:
        checkpoint: Directory of the base; a quantized one takes the method ``lora`` only.
        training_data: Conversations in the published format, JSON or JSONL.
        output: Directory to make: a complete checkpoint (``full``) or an adapter (``lora``).
        options: How to train.
        checkpoints: Directory for resumable checkpoints, of this run alone.
        resume_from: One of them, see ``latest_checkpoint``.
        on_progress: Told about stages ``loading``, ``training`` and ``writing``, with the loss, the learning
            rate, the step and tokens a second.

    Raises:
        DatasetError: The data is malformed or teaches nothing; the message names the line.
        CheckpointError: The base or ``resume_from`` is broken, ``output`` exists, or there is no writing
            to it or to ``checkpoints``.
        TokenizerError: The base has no tokenizer.
        UnsupportedError: The base, method and device do not go together.
        InsufficientSpaceError: The disk cannot hold result and checkpoints.
        TrainingDivergedError: The loss is no number any more.
    """
    options = options or FinetuningOptions()
    checkpoint, output, checkpoints = Path(checkpoint), Path(output), Path(checkpoints)
    on_progress(Progress(0.0, "loading"))
    config = read_config(checkpoint)
    hardware = Hardware.of(options)
    _check_method(config, options)
    tokenizer = load_tokenizer(checkpoint)
    data = _training_data(checkpoint, config, tokenizer, Path(training_data), options)
    make_directory(checkpoints)
    longest_row = options.max_length or _window(config)
    collator = Collator(tokenizer.pad_token_id, longest_row if options.packing else None)
    with staged_output(output) as staging:
        model = _trainable_model(checkpoint, options, hardware)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        require_space(output, trained * BYTES_OF_A_WRITTEN_NUMBER)
        require_space(checkpoints, trained * BYTES_OF_A_TRAINED_NUMBER * CHECKPOINTS_AT_ONCE)
        result = train(
            model,
            data.examples,
            options,
            collator=collator,
            hardware=hardware,
            checkpoints=checkpoints,
            resume_from=None if resume_from is None else Path(resume_from),
            on_progress=on_progress,
        )
        on_progress(Progress(TRAINING_ENDS, "writing"))
        _write(model, checkpoint, config, staging)
    on_progress(Progress(1.0, "writing"))
    return _report(data, trained, result, options)


def _report(
    data: TrainingData, trained_parameters: int, result: TrainingResult, options: FinetuningOptions
) -> FinetuningReport:
    return FinetuningReport(
        final_loss=result.final_loss,
        steps=result.steps,
        examples=len(data.examples),
        dropped_examples=data.dropped,
        truncated_examples=data.truncated,
        trained_parameters=trained_parameters,
        resumed_from_step=result.resumed_from_step,
        packing=options.packing,
        filled=result.filled,
    )


def _check_method(config: BaichuanConfig, options: FinetuningOptions) -> None:
    if options.method == "full" and is_quantized(config):
        raise UnsupportedError(
            "a quantized checkpoint cannot be trained in full; use method 'lora', or the unquantized checkpoint"
        )


def _training_data(
    checkpoint: Path,
    config: BaichuanConfig,
    tokenizer: BaichuanTokenizer,
    path: Path,
    options: FinetuningOptions,
) -> TrainingData:
    window = _window(config)
    if options.max_length is not None and options.max_length > window:
        raise DatasetError(
            f"max_length {options.max_length} is longer than the window of the model; use at most {window}"
        )
    return encode_training_data(
        tokenizer,
        read_conversations(path),
        max_length=options.max_length or window,
        chat_format=ChatFormat.of(checkpoint, config),
    )


def _window(config: BaichuanConfig) -> int:
    return config.model_max_length or DEFAULT_CONTEXT_LENGTH


def _trainable_model(
    checkpoint: Path, options: FinetuningOptions, hardware: Hardware
) -> BaichuanForCausalLM | PeftModel:
    if options.method == "full":
        # Full training keeps its weights in float32 and computes in mixed precision.
        return load_model(checkpoint, dtype="float32", device=hardware.device)
    base = load_model(checkpoint, dtype="bfloat16" if hardware.bfloat16 else "float32", device=hardware.device)
    torch.manual_seed(options.seed)  # of the adapter's first weights
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=LORA_TARGETS,
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
    )
    model = get_peft_model(base, adapter)
    if not isinstance(model, PeftModel):
        raise UnsupportedError(f"this version of peft makes a {type(model).__name__}; install the pinned one")
    return model


def _write(model: BaichuanForCausalLM | PeftModel, checkpoint: Path, config: BaichuanConfig, staging: Path) -> None:
    if isinstance(model, PeftModel):
        model.save_pretrained(str(staging))
        (staging / "README.md").unlink(missing_ok=True)  # peft's empty model card
        write_adapter_identity(staging, checkpoint)
    else:
        model.config.use_cache = config.use_cache  # the trainer switches it off
        if isinstance(config.dtype, torch.dtype):
            model.type(config.dtype)
        model.save_pretrained(staging)
    copy_companions(checkpoint, staging)
