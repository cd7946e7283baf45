"""Decides how a run is distributed, before any process starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from baichuan_core.errors import InsufficientMemoryError, UnsupportedError
from baichuan_core.finetuning.distributed.deepspeed_config import complete_config, make_zero_preset
from baichuan_core.finetuning.distributed.distribution import (
    SINGLE_PROCESS_PLAN,
    ConcreteStrategy,
    Distribution,
    DistributionPlan,
)
from baichuan_core.finetuning.hardware import Hardware
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.free_memory import get_memory_limits, total_bytes
from baichuan_core.memory import ModelShape, Precision, TrainingSettings, read_config
from footprint import Cluster, choose_strategy, estimate_rank_footprint, explain_insufficient_memory

UNSHARDED_STRATEGIES = ("single", "ddp")


@dataclass(frozen=True, slots=True)
class _MemoryInputs:
    """The properties of a run that determine its memory use."""

    shape: ModelShape
    precision: Precision
    training: TrainingSettings
    cluster: Cluster


def plan_run(checkpoint: Path, options: FinetuningOptions, distribution: Distribution | None) -> DistributionPlan:
    """Return the plan for a run on this machine; without a distribution, this process trains alone.

    Raises:
        UnsupportedError: Processes, strategy and options are incompatible, or the DeepSpeed configuration is invalid.
        InsufficientMemoryError: The devices have too little memory; the message has the sizes and a remedy.
    """
    _reject_other_launchers()
    if distribution is None:
        return SINGLE_PROCESS_PLAN
    hardware = Hardware.from_options(options)
    processes = _choose_process_count(distribution, hardware)
    deepspeed = distribution.deepspeed
    if deepspeed is not None:
        deepspeed = complete_config(deepspeed, options, bfloat16=hardware.bfloat16)
    config = read_config(checkpoint)
    shape = ModelShape.from_config(config)
    precision = replace(Precision.from_config(config), dtype="bfloat16" if hardware.bfloat16 else "float32")
    training = make_training_settings(options, hardware, options.max_length or shape.context_length)
    inputs = _MemoryInputs(shape, precision, training, _measure_cluster(distribution, processes, hardware))
    unshardable = _explain_why_unshardable(options, precision)
    strategy, reason = _choose_strategy(distribution, deepspeed, inputs, may_shard=unshardable is None)
    if unshardable is not None and strategy not in UNSHARDED_STRATEGIES:
        raise UnsupportedError(f"strategy {strategy!r} cannot be used: {unshardable}; use 'ddp' or 'single'")
    _check_process_count(strategy, inputs.cluster.rank_count)
    if deepspeed is None and strategy in ("zero2", "zero3", "zero3-offload"):
        preset = make_zero_preset(strategy, on_gpu=not hardware.is_cpu)
        deepspeed = complete_config(preset, options, bfloat16=hardware.bfloat16)
    return DistributionPlan(
        strategy=strategy,
        reason=reason,
        deepspeed=deepspeed,
        processes=processes,
        nodes=distribution.nodes,
        node_rank=distribution.node_rank,
        master_addr=distribution.master_addr,
        master_port=distribution.master_port,
    )


def make_training_settings(options: FinetuningOptions, hardware: Hardware, tokens: int) -> TrainingSettings:
    """Return the properties of a training run that determine its memory use.

    Args:
        options: Options of the run.
        hardware: Device and dtype of the run.
        tokens: Number of tokens of the longest example.
    """
    return TrainingSettings(
        method=options.method,
        batch=options.batch_size,
        tokens=tokens,
        lora_rank=options.lora_rank,
        lora_targets=options.lora_target_modules,
        gradient_checkpointing=options.gradient_checkpointing,
        accumulation=options.gradient_accumulation_steps,
        on_gpu=not hardware.is_cpu,
    )


def _reject_other_launchers() -> None:
    """Reject a process started by torchrun or another launcher: each of its ranks would start its own ranks."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if ranks not in ("", "1"):
        raise UnsupportedError(
            f"WORLD_SIZE is {ranks}, so another launcher has started this process; start one process per machine"
            " without torchrun or deepspeed, and set the option `distribution`"
        )


def _choose_process_count(distribution: Distribution, hardware: Hardware) -> int:
    """Return the number of processes to start on this machine."""
    visible = 0 if hardware.is_cpu else torch.cuda.device_count()
    if distribution.processes is None:
        return 1 if distribution.strategy == "single" else max(1, visible)
    if not hardware.is_cpu and distribution.processes > visible:
        raise UnsupportedError(
            f"processes is {distribution.processes}, but only {visible} GPUs are visible; "
            "start at most one process per GPU"
        )
    return distribution.processes


def _check_process_count(strategy: ConcreteStrategy, ranks: int) -> None:
    if strategy == "single" and ranks > 1:
        raise UnsupportedError(f"strategy 'single' uses one process, but {ranks} were requested; use 'ddp' or 'auto'")
    if strategy in ("ddp", "fsdp2") and ranks == 1:
        raise UnsupportedError(
            f"strategy {strategy!r} needs at least two processes, but there is only one; use 'single'"
        )


def _explain_why_unshardable(options: FinetuningOptions, precision: Precision) -> str | None:
    """Return why the weights and optimizer cannot be sharded; None if they can."""
    if precision.quantization is not None or precision.quantize_head:
        return "the base is quantized, and quantized weights cannot be sharded"
    if options.use_dora:
        return "use_dora is true, and DoRA needs the norms of whole weights"
    if options.optimizer != "adamw":
        return f"optimizer is {options.optimizer!r}, which cannot be sharded"
    return None


def _measure_cluster(distribution: Distribution, processes: int, hardware: Hardware) -> Cluster:
    limits = get_memory_limits()
    host_bytes, device_bytes = total_bytes("cpu"), 0
    if hardware.is_cpu:
        host_bytes = min(host_bytes, limits.get(0, host_bytes))
    else:
        totals = [torch.cuda.get_device_properties(index).total_memory for index in range(processes)]
        device_bytes = min(limits.get(index, total) for index, total in enumerate(totals))
    return Cluster(processes, device_bytes, host_bytes, distribution.nodes, on_gpu=not hardware.is_cpu)


def _choose_strategy(
    distribution: Distribution, deepspeed: Mapping[str, Any] | None, inputs: _MemoryInputs, *, may_shard: bool
) -> tuple[ConcreteStrategy, str]:
    """Return the strategy and the reason for it."""
    sizes = (inputs.shape, inputs.precision, inputs.training)
    named = distribution.strategy if deepspeed is None else _find_equivalent_strategy(deepspeed)
    if named == "auto":
        choice = choose_strategy(*sizes, inputs.cluster, may_shard=may_shard)
        if choice is None:
            raise InsufficientMemoryError(explain_insufficient_memory(*sizes, inputs.cluster, may_shard=may_shard))
        return choice.strategy, choice.reason
    if not inputs.cluster.has_room_for(estimate_rank_footprint(*sizes, named, inputs.cluster.rank_count), least=True):
        raise InsufficientMemoryError(explain_insufficient_memory(*sizes, inputs.cluster, named))
    return named, "it was requested" if deepspeed is None else "a DeepSpeed configuration was given"


def _find_equivalent_strategy(deepspeed: Mapping[str, Any]) -> ConcreteStrategy:
    """Return the strategy that needs as much memory as a complete DeepSpeed configuration."""
    zero = deepspeed["zero_optimization"]
    if zero["stage"] < 3:  # noqa: PLR2004
        return "zero2"
    return "zero3-offload" if zero.get("offload_param", {}).get("device", "none") == "cpu" else "zero3"
