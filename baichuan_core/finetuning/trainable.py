"""The model that is trained: the whole checkpoint, or a frozen base with an adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor

from baichuan_core.checkpoint import load_model
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from baichuan_core.finetuning.data import EncodedExample
from baichuan_core.finetuning.distributed.distribution import SINGLE, Plan
from baichuan_core.finetuning.distributed.planning import describe_training
from baichuan_core.finetuning.hardware import Hardware
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.memory import Footprint, Precision, Shape, read_config, require_memory
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.model.quantization import prepare_dora_layers
from footprint import rank_footprint


def trainable_model(
    checkpoint: Path, options: FinetuningOptions, hardware: Hardware, plan: Plan = SINGLE
) -> BaichuanForCausalLM | PeftModel:
    """Load the model to train. A model whose weights are sharded is loaded to the host first.

    A frozen base keeps everything that is not quantized in the dtype that is computed in, embedding and head too.

    Raises:
        CheckpointError: The base is damaged.
        UnsupportedError: The adapter cannot be put on it.
    """
    device = "cpu" if plan.shards_weights else hardware.device
    if options.method == "full":
        # Full training keeps its weights in float32 and computes in mixed precision.
        return load_model(checkpoint, dtype="float32", device=device)
    base = load_model(checkpoint, dtype="bfloat16" if hardware.bfloat16 else "float32", device=device)
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


def with_weights(config: BaichuanConfig, weights: Mapping[str, Tensor]) -> BaichuanForCausalLM:
    """Return a model that has the given weights, without copying them."""
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    return model


def require_enough_memory(
    checkpoint: Path,
    options: FinetuningOptions,
    hardware: Hardware,
    examples: Sequence[EncodedExample],
    plan: Plan = SINGLE,
) -> None:
    """Refuse a run whose weights, gradients and optimizer cannot fit, before the model is loaded.

    Raises:
        InsufficientMemoryError: The message has the numbers, and what would fit.
    """
    config = read_config(checkpoint)
    shape = Shape.from_config(config)
    precision = replace(Precision.from_config(config), dtype="bfloat16" if hardware.bfloat16 else "float32")
    training = describe_training(options, hardware, max(len(example.input_ids) for example in examples))
    needs = rank_footprint(shape, precision, training, plan.strategy, plan.world_size)
    ranks_per_device = plan.processes if hardware.is_cpu else 1
    require_memory(_multiply(needs.device, ranks_per_device), shape, device=hardware.device)
    if needs.host:
        host = needs.host * plan.processes
        require_memory(Footprint(host, optimizer=host, least=host, place="host"), shape)


def _multiply(needs: Footprint, count: int) -> Footprint:
    """Return what several ranks need that share a device."""
    return Footprint(
        weights=needs.weights * count,
        activations=needs.activations * count,
        gradients=needs.gradients * count,
        optimizer=needs.optimizer * count,
        least=needs.least * count,
    )
