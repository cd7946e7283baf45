"""The distribution of a run over processes: as requested (`Distribution`), and as decided (`DistributionPlan`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

ConcreteStrategy = Literal["single", "ddp", "fsdp2", "zero2", "zero3", "zero3-offload"]
Strategy = Literal["auto", "single", "ddp", "fsdp2", "zero2", "zero3", "zero3-offload"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Distribution:
    """The requested distribution of a run. Each machine starts one launcher, with equal values except `node_rank`.

    `batch_size` is per process: one step trains on `batch_size * gradient_accumulation_steps * world_size` examples.

    Attributes:
        strategy: `single` is one process; `ddp` replicates the model (DistributedDataParallel); `fsdp2` shards it
            (torch's `fully_shard`); `zero2`, `zero3` and `zero3-offload` use DeepSpeed; `auto` chooses among `single`,
            `ddp`, `fsdp2` and `zero3-offload` by the memory they need.
        deepspeed: A DeepSpeed configuration instead of a strategy; requires `strategy` to be `auto`.
        processes: Number of processes on this machine; None starts one per visible GPU, or one without a GPU.
        nodes: Number of machines.
        node_rank: Index of this machine; rank 0 runs on machine 0.
        master_addr: Address at which the other machines reach machine 0.
        master_port: Free TCP port of machine 0; required with several machines. None picks a free one.
    """

    strategy: Strategy = "auto"
    deepspeed: Mapping[str, Any] | None = None
    processes: int | None = None
    nodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; use one of {', '.join(map(repr, STRATEGIES))}")
        if self.deepspeed is not None and self.strategy != "auto":
            raise ValueError(f"deepspeed and strategy {self.strategy!r} are both given; leave one out")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes is {self.processes}; it must be at least 1")
        if self.nodes < 1:
            raise ValueError(f"nodes is {self.nodes}; it must be at least 1")
        if not 0 <= self.node_rank < self.nodes:
            raise ValueError(f"node_rank is {self.node_rank}; with {self.nodes} nodes, use 0 to {self.nodes - 1}")
        if self.master_port is not None and not 1 <= self.master_port <= MAX_PORT:
            raise ValueError(f"master_port is {self.master_port}; use 1 to {MAX_PORT}")
        if self.nodes > 1 and self.master_port is None:
            raise ValueError(f"master_port is missing; set it to the same port on all {self.nodes} nodes")


@dataclass(frozen=True, slots=True)
class DistributionPlan:
    """A distribution in which every choice has been made.

    Attributes:
        strategy: The strategy; a caller's DeepSpeed configuration counts as `zero2` or `zero3`.
        reason: Human-readable reason for the strategy.
        deepspeed: Complete DeepSpeed configuration; None for the other strategies.
        processes: Number of processes on this machine, which is the same on every machine.
        nodes: Number of machines.
        node_rank: Index of this machine.
        master_addr: Address of machine 0.
        master_port: Port of machine 0; None picks a free one.
    """

    strategy: ConcreteStrategy
    reason: str
    deepspeed: Mapping[str, Any] | None = None
    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int | None = None

    @property
    def world_size(self) -> int:
        """Total number of processes across all machines."""
        return self.processes * self.nodes

    @property
    def is_single_process(self) -> bool:
        """Whether the calling process trains by itself."""
        return self.strategy == "single"

    @property
    def shards_weights(self) -> bool:
        """Whether each rank holds only part of the weights."""
        return self.strategy == "fsdp2" or (self.deepspeed is not None and self.zero_stage == 3)  # noqa: PLR2004

    @property
    def zero_stage(self) -> int:
        """ZeRO stage; 0 without DeepSpeed."""
        return 0 if self.deepspeed is None else int(self.deepspeed["zero_optimization"]["stage"])


SINGLE_PROCESS_PLAN = DistributionPlan("single", "one process was requested")
