"""The choice of how several devices share a fine-tuning job, based on the memory that each strategy needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .breakdown import format_gib
from .finetuning import TrainingSettings
from .precision import Precision
from .remedies import PRECISIONS
from .shape import ModelShape
from .sharding import RankFootprint, TrainingStrategy, estimate_rank_footprint

OVERHEAD_BYTES_PER_GPU = 2**30  # bytes per GPU for CUDA's context and NCCL's buffers
MAX_DEVICES = 4096  # upper limit when searching for a sufficient number of devices


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines with identical devices.

    Attributes:
        devices: Devices per machine, which is also the number of ranks per machine; without GPUs the ranks share the
            host memory.
        device_bytes: Memory of each GPU; ignored without GPUs.
        host_bytes: Host memory of each machine.
        nodes: Number of machines.
        on_gpu: Whether the devices are GPUs.
    """

    devices: int
    device_bytes: int
    host_bytes: int
    nodes: int = 1
    on_gpu: bool = True

    @property
    def rank_count(self) -> int:
        """Total number of ranks across all machines."""
        return self.devices * self.nodes

    @property
    def rank_bytes(self) -> int:
        """Device memory that is available to one rank."""
        return max(0, self.device_bytes - OVERHEAD_BYTES_PER_GPU) if self.on_gpu else self.host_bytes // self.devices

    @property
    def rank_host_bytes(self) -> int:
        """Host memory that is available to one rank."""
        return self.host_bytes // self.devices

    def has_room_for(self, needs: RankFootprint, *, least: bool = False) -> bool:
        """Return whether each rank has enough memory; with `least`, ignore memory that depends on the input length."""
        device = needs.device.least if least else needs.device.total
        return device <= self.rank_bytes and needs.host <= self.rank_host_bytes


@dataclass(frozen=True, slots=True)
class StrategyChoice:
    """The chosen strategy and the reason for the choice.

    Attributes:
        strategy: The strategy.
        reason: One sentence with the memory figures on which the choice is based.
        needs: Memory of each rank.
    """

    strategy: TrainingStrategy
    reason: str
    needs: RankFootprint


def choose_strategy(
    shape: ModelShape, precision: Precision, training: TrainingSettings, cluster: Cluster, *, may_shard: bool = True
) -> StrategyChoice | None:
    """Choose the fastest strategy that fits: replicas, then sharded weights, then weights in host memory.

    If the longest inputs do not fit with any strategy, choose the first one with which everything else fits.

    Args:
        shape: Sizes of the model.
        precision: As for `estimate_finetuning`.
        training: The training settings; `batch` is that of one rank.
        cluster: The machines.
        may_shard: Whether the weights may be sharded; quantized weights never are.

    Returns:
        The choice, or None if nothing fits; see `explain_insufficient_memory`.
    """
    candidates = {
        name: estimate_rank_footprint(shape, precision, training, name, cluster.rank_count)
        for name in _list_candidates(precision, cluster, may_shard=may_shard)
    }
    for least in (False, True):
        rejected: list[str] = []
        for name, needs in candidates.items():
            if cluster.has_room_for(needs, least=least):
                warning = "; inputs of the maximum length may not fit" if least else ""
                return StrategyChoice(name, f"{_explain_choice(name, needs, rejected, cluster)}{warning}", needs)
            rejected.append(f"{name} would need {_describe_needs(needs)}")
    return None


def explain_insufficient_memory(
    shape: ModelShape,
    precision: Precision,
    training: TrainingSettings,
    cluster: Cluster,
    strategy: TrainingStrategy | None = None,
    *,
    may_shard: bool = True,
) -> str:
    """Return a message that states how much memory a fine-tuning job needs and has, and which alternatives would fit.

    Args:
        shape: Sizes of the model.
        precision: As for `estimate_finetuning`.
        training: The training settings.
        cluster: The machines.
        strategy: The only allowed strategy; None for all.
        may_shard: Whether the weights may be sharded.
    """
    names = _list_candidates(precision, cluster, may_shard=may_shard) if strategy is None else (strategy,)
    needs = {each: estimate_rank_footprint(shape, precision, training, each, cluster.rank_count) for each in names}
    needed = [f"{_describe_needs(needs[each], least=True)} with {each}" for each in names]
    host = f" and {format_gib(cluster.rank_host_bytes)} of host memory" if cluster.on_gpu else ""
    remedies = [
        f"{way}: {_describe_needs(remedy, least=True)}"
        for way, remedy in _find_remedies(shape, precision, training, cluster)
    ]
    return (
        f"each of {cluster.rank_count} processes needs at least {', or '.join(needed)}, "
        f"but has {format_gib(cluster.rank_bytes)}{host}; "
        f"{'these would fit: ' + ', '.join(remedies) if remedies else 'use machines with more memory'}"
    )


def _list_candidates(precision: Precision, cluster: Cluster, *, may_shard: bool) -> tuple[TrainingStrategy, ...]:
    """Return the possible strategies, fastest first; quantized weights cannot be sharded."""
    replicas: TrainingStrategy = "single" if cluster.rank_count == 1 else "ddp"
    if precision.quantization is not None or not may_shard:
        return (replicas,)
    sharded: tuple[TrainingStrategy, ...] = () if cluster.rank_count == 1 else ("fsdp2",)
    offloaded: tuple[TrainingStrategy, ...] = ("zero3-offload",) if cluster.on_gpu else ()
    return (replicas, *sharded, *offloaded)


def _explain_choice(name: TrainingStrategy, needs: RankFootprint, rejected: list[str], cluster: Cluster) -> str:
    unit = "device" if cluster.on_gpu else "process"
    fits = f"each {unit} needs {_describe_needs(needs)}, and has {format_gib(cluster.rank_bytes)}"
    meaning = {
        "single": "there is one device",
        "ddp": "every device holds the whole model",
        "fsdp2": "weights, gradients and optimizer are sharded over the devices",
        "zero3-offload": "weights and optimizer are in host memory",
    }[name]
    return "; ".join([f"{meaning}: {fits}", *rejected])


def _describe_needs(needs: RankFootprint, *, least: bool = False) -> str:
    device = format_gib(needs.device.least if least else needs.device.total)
    return f"{device} and {format_gib(needs.host)} of host memory" if needs.host else device


def _find_remedies(
    shape: ModelShape, precision: Precision, training: TrainingSettings, cluster: Cluster
) -> Iterator[tuple[str, RankFootprint]]:
    """Yield alternatives that fit: more devices of the same kind, and adapters on smaller bases."""
    if precision.quantization is None:
        devices = 2 * cluster.rank_count
        while devices <= MAX_DEVICES:
            needs = estimate_rank_footprint(shape, precision, training, "fsdp2", devices)
            if needs.device.least <= cluster.rank_bytes:
                yield f"fsdp2 on {devices} such devices", needs
                break
            devices *= 2
    replicas: TrainingStrategy = "single" if cluster.rank_count == 1 else "ddp"
    for smaller in PRECISIONS:
        base = replace(smaller, dtype=precision.dtype)
        lora = replace(training, method="lora")
        if base.weight_bytes(shape) >= precision.weight_bytes(shape) and training.method == "lora":
            continue
        needs = estimate_rank_footprint(shape, base, lora, replicas, cluster.rank_count)
        if cluster.has_room_for(needs, least=True):
            yield f"method lora on {base.label} with {replicas}", needs
