"""Starts the ranks of this machine, relays their progress, and ends all of them if one fails."""

import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from baichuan_core.errors import BaichuanError, RankFailedError
from baichuan_core.finetuning.distributed.distribution import Plan
from baichuan_core.finetuning.distributed.group import RankGroup
from baichuan_core.finetuning.distributed.interfaces import find_interface
from baichuan_core.finetuning.distributed.meeting import Meeting
from baichuan_core.finetuning.distributed.messages import RunInputs, Task
from baichuan_core.finetuning.distributed.rank_process import RankProcess
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.free_memory import reserved_bytes
from baichuan_core.progress import Progress, ProgressCallback

POLL_SECONDS = 0.1
# After the first sign of a failure: the ranks that wait for the failed one also fail, maybe a moment earlier.
GRACE_SECONDS = 1.0


def launch(
    inputs: RunInputs,
    plan: Plan,
    *,
    on_gpu: bool,
    should_pause: Callable[[], bool],
    on_progress: ProgressCallback,
) -> FinetuningReport:
    """Run the ranks of this machine to their end.

    The ranks are children in the process group of the caller. They end when one of them fails on any machine, when
    this function is left by an exception, and when the calling thread or process ends in any way.

    Args:
        inputs: What to train; the same on every machine.
        plan: How; `node_rank` is that of this machine.
        on_gpu: Whether each rank has a GPU.
        should_pause: Asked a few times per second; if true, all ranks save a resume point.
        on_progress: Called with the progress of this machine's first rank, which is rank 0 on machine 0.

    Returns:
        The report of this machine's first rank.

    Raises:
        RankFailedError: A rank was killed or failed unexpectedly, here or on another machine; the message names the
            rank and has the last lines of its output.
        MemoryError: A rank ran out of memory.
        BaichuanError: Any error that a rank raised on purpose.
    """
    meeting = Meeting(plan)
    try:
        meeting.compare_plans()
        with _started(inputs, plan, meeting.port, on_gpu=on_gpu) as ranks:
            report = _supervise(ranks, meeting, should_pause, on_progress)
        meeting.close()
    except BaichuanError as error:
        meeting.tell_failure(error)
        raise
    return report


@contextmanager
def _started(inputs: RunInputs, plan: Plan, port: int, *, on_gpu: bool) -> Iterator[list[RankProcess]]:
    ranks: list[RankProcess] = []
    limits = reserved_bytes()
    try:
        for local_rank in range(plan.processes):
            group = RankGroup(plan.node_rank * plan.processes + local_rank, local_rank, plan.world_size)
            task = Task(inputs, plan, group, port, on_gpu, limits)
            ranks.append(RankProcess(task, _environment(plan, group, port, on_gpu=on_gpu), sys.stderr))
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
        for rank in ranks:
            rank.close()


def _environment(plan: Plan, group: RankGroup, port: int, *, on_gpu: bool) -> Mapping[str, str]:
    """Return the environment of a rank, with the variables that torch, accelerate and DeepSpeed read."""
    threads = max(1, torch.get_num_threads() // plan.processes)
    defaults = {"OMP_NUM_THREADS": str(threads)}
    if (interface := find_interface(plan.master_addr)) is not None:
        defaults["GLOO_SOCKET_IFNAME"] = interface  # gloo would look up the host name, which may not resolve
    if not on_gpu:
        defaults["DS_ACCELERATOR"] = "cpu"
    return {
        **defaults,
        **os.environ,
        "RANK": str(group.rank),
        "LOCAL_RANK": str(group.local_rank),
        "WORLD_SIZE": str(group.size),
        "LOCAL_WORLD_SIZE": str(plan.processes),
        "MASTER_ADDR": plan.master_addr,
        "MASTER_PORT": str(port),
    }


def _supervise(
    ranks: list[RankProcess], meeting: Meeting, should_pause: Callable[[], bool], on_progress: ProgressCallback
) -> FinetuningReport:
    asked = False
    while not all(rank.has_ended for rank in ranks):
        for progress in _listen(ranks, POLL_SECONDS):
            on_progress(progress)
        if any(rank.has_failed for rank in ranks):
            _listen_for_causes(ranks)
            raise choose_error(ranks)
        meeting.require_all()
        if not asked and should_pause():
            asked = True
            ranks[0].ask_to_pause()
    report = ranks[0].report
    if report is None or any(rank.has_failed for rank in ranks):
        raise choose_error(ranks)
    return report


def _listen(ranks: list[RankProcess], timeout: float) -> list[Progress]:
    """Read what all ranks say within `timeout` seconds; return the progress of the first."""
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            for descriptor in rank.descriptors:
                selector.register(descriptor, selectors.EVENT_READ, rank)
        if not selector.get_map():
            time.sleep(timeout)
            return []
        found: list[Progress] = []
        for key, _ in selector.select(timeout):
            progress = list(key.data.read(key.fd))
            found += progress if key.data is ranks[0] else []
        return found


def _listen_for_causes(ranks: list[RankProcess]) -> None:
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end and not all(rank.has_ended for rank in ranks):
        _listen(ranks, POLL_SECONDS)


def choose_error(ranks: list[RankProcess]) -> Exception:
    """Return the most telling error: one raised on purpose, else a rank that was killed, else any other."""
    failed = [rank for rank in ranks if rank.has_failed]
    for rank in failed:
        if isinstance(rank.error, BaichuanError):
            return rank.error
        if isinstance(rank.error, MemoryError):
            return MemoryError(f"rank {rank.rank}: {rank.error}")
    killed = [rank for rank in failed if rank.error is None]
    culprit = (killed or failed)[0]
    printed = "".join(f"\n  {line}" for line in culprit.lines) or " nothing"
    return RankFailedError(
        f"rank {culprit.rank} {culprit.describe_end()}; all other ranks were ended, and the run can continue from its"
        f" last resume point. Rank {culprit.rank} printed last:{printed}"
    )
