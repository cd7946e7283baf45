"""Loads the model to train: the whole checkpoint, or a frozen base with an adapter."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor

from baichuan_core.checkpoint import load_model
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError
from baichuan_core.finetuning.distributed.distribution import SINGLE_PROCESS_PLAN, DistributionPlan
from baichuan_core.finetuning.distributed.group import SINGLE_RANK, RankGroup
from baichuan_core.finetuning.distributed.planning import make_training_settings
from baichuan_core.finetuning.hardware import Hardware
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.memory import (
    Footprint,
    ModelShape,
    Precision,
    explain_out_of_memory,
    read_config,
    require_memory,
)
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.model.quantization import prepare_dora_layers
from footprint import estimate_rank_footprint


def load_trainable_model(
    checkpoint: Path, options: FinetuningOptions, hardware: Hardware, plan: DistributionPlan = SINGLE_PROCESS_PLAN
) -> BaichuanForCausalLM | PeftModel:
    """Load the model to train. If its weights will be sharded, it is loaded into host memory first.

    Unquantized weights of a frozen base, including the embedding and the output head, are loaded in the compute dtype.

    Raises:
        CheckpointError: The base is damaged.
        UnsupportedError: The installed version of peft is not supported.
    """
    device = "cpu" if plan.shards_weights else hardware.device
    if options.method == "full":
        # Full fine-tuning updates float32 weights; only computations use mixed precision.
        return load_model(checkpoint, dtype="float32", device=device)
    base = load_model(checkpoint, dtype="bfloat16" if hardware.bfloat16 else "float32", device=device)
    torch.manual_seed(options.seed)  # determines the adapter's initial weights
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
        raise UnsupportedError(
            f"expected a PeftModel from peft, but got a {type(model).__name__}; install the pinned version of peft"
        )
    prepare_dora_layers(base)
    # If the output head is adapted, peft by default also saves the whole embedding and head.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)  # type: ignore[method-assign]
    return model


def make_model_with_weights(config: BaichuanConfig, weights: Mapping[str, Tensor]) -> BaichuanForCausalLM:
    """Create a model with the given weights, without copying them."""
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    return model


@contextmanager
def require_training_memory(
    checkpoint: Path,
    options: FinetuningOptions,
    hardware: Hardware,
    longest: int,
    plan: DistributionPlan = SINGLE_PROCESS_PLAN,
    group: RankGroup = SINGLE_RANK,
) -> Iterator[None]:
    """Check that weights, gradients and optimizer fit into memory, and explain out-of-memory errors in the block.

    Args:
        checkpoint: Directory of the base.
        options: Training options.
        hardware: Device and dtype of the run.
        longest: Number of tokens of the longest example.
        plan: Distribution of the run.
        group: This rank.

    Raises:
        InsufficientMemoryError: The message has the sizes and a remedy.
    """
    config = read_config(checkpoint)
    shape = ModelShape.from_config(config)
    precision = replace(Precision.from_config(config), dtype="bfloat16" if hardware.bfloat16 else "float32")
    training = make_training_settings(options, hardware, longest)
    rank = estimate_rank_footprint(shape, precision, training, plan.strategy, plan.world_size)
    needs = _multiply_footprint(rank.device, plan.processes if hardware.is_cpu else 1)
    require_memory(needs, shape, device=hardware.device)
    if rank.host:
        host = rank.host * plan.processes
        require_memory(Footprint(host, optimizer=host, least=host, place="host"), shape)
    group.wait_for_all()  # otherwise a rank could load its weights before another has measured the free memory
    with explain_out_of_memory(needs, shape, device=hardware.device):
        yield


def _multiply_footprint(needs: Footprint, count: int) -> Footprint:
    """Return the memory needed by `count` ranks that share a device."""
    return Footprint(
        weights=needs.weights * count,
        activations=needs.activations * count,
        gradients=needs.gradients * count,
        optimizer=needs.optimizer * count,
        least=needs.least * count,
    )
