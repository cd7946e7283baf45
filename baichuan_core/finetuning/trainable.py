"""The model that is trained: the whole checkpoint, or a frozen base with an adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model

from baichuan_core.checkpoint import load_model
from baichuan_core.errors import UnsupportedError
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.finetuning.training import Hardware
from baichuan_core.memory import (
    Precision,
    Shape,
    Training,
    explain_out_of_memory,
    finetuning,
    read_config,
    require_memory,
)
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.model.quantization import prepare_dora_layers


def trainable_model(
    checkpoint: Path, options: FinetuningOptions, hardware: Hardware
) -> BaichuanForCausalLM | PeftModel:
    """Load the model to train.

    A frozen base keeps everything that is not quantized in the dtype that is computed in, embedding and head too.

    Raises:
        CheckpointError: The base is damaged.
        UnsupportedError: The adapter cannot be put on it.
    """
    if options.method == "full":
        # Full training keeps its weights in float32 and computes in mixed precision.
        return load_model(checkpoint, dtype="float32", device=hardware.device)
    base = load_model(checkpoint, dtype="bfloat16" if hardware.bfloat16 else "float32", device=hardware.device)
    torch.manual_seed(options.seed)  # of the adapter's first weights
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=list(options.lora_target_modules),
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
    model = get_peft_model(base, adapter)
    if not isinstance(model, PeftModel):
        raise UnsupportedError(f"this version of peft makes a {type(model).__name__}; install the pinned one")
    prepare_dora_layers(base)
    # With an adapted head, peft would write the whole embedding and head next to the adapter.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)  # type: ignore[method-assign]
    return model


@contextmanager
def within_memory(checkpoint: Path, options: FinetuningOptions, hardware: Hardware, longest: int) -> Iterator[None]:
    """Refuse a run whose weights, gradients and optimizer cannot fit, and explain it if the block runs out of memory.

    Args:
        checkpoint: The base.
        options: How to train.
        hardware: Where.
        longest: Tokens of the longest example.

    Raises:
        InsufficientMemoryError: The message has the numbers, and what would fit.
    """
    config = read_config(checkpoint)
    shape = Shape.from_config(config)
    precision = replace(Precision.from_config(config), dtype="bfloat16" if hardware.bfloat16 else "float32")
    training = Training(
        method=options.method,
        batch=options.batch_size,
        tokens=longest,
        lora_rank=options.lora_rank,
        lora_targets=options.lora_target_modules,
        gradient_checkpointing=options.gradient_checkpointing,
        accumulation=options.gradient_accumulation_steps,
        on_gpu=not hardware.is_cpu,
    )
    needs = finetuning(shape, precision, training)
    require_memory(needs, shape, device=hardware.device)
    with explain_out_of_memory(needs, shape, device=hardware.device):
        yield
