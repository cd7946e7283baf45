"""Communication between one rank and the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined] # public, but not marked as exported

RANKS_PREFIX = "ranks"  # prefix of torch's keys in the launcher's store
GROUP_TIMEOUT = timedelta(minutes=30)  # long, because other ranks wait while one loads or saves a large model


@dataclass(frozen=True, slots=True)
class RankGroup:
    """The group of all ranks, as seen from one of them; by default, a group of one.

    Attributes:
        rank: Index among all ranks.
        local_rank: Index among the ranks of this machine, which is also the index of its GPU.
        size: Number of ranks.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files that all ranks share."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, ordered by rank; every rank must call this."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def reduce_any(self, condition: bool) -> bool:
        """Return whether the condition holds on any rank; every rank must call this."""
        return condition if self.size == 1 else any(self.reduce_sum([float(condition)], "cpu"))

    def reduce_sum(self, values: Sequence[float], device: str | torch.device) -> list[float]:
        """Return the sums of the values over all ranks; every rank must call this."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def wait_for_all(self) -> None:
        """Return once every rank has called this."""
        if self.size > 1:
            dist.barrier()


SINGLE_RANK = RankGroup()


def join_group(group: RankGroup, *, address: str, port: int, on_gpu: bool) -> None:
    """Connect this rank to the others through the store of machine 0's launcher."""
    if on_gpu:
        torch.cuda.set_device(group.local_rank)
    store = TCPStore(address, port, is_master=False, timeout=GROUP_TIMEOUT)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore(RANKS_PREFIX, store),
        rank=group.rank,
        world_size=group.size,
        timeout=GROUP_TIMEOUT,
    )


def leave_group() -> None:
    """Disconnect this rank."""
    if dist.is_initialized():
        dist.destroy_process_group()
