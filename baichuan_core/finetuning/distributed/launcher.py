"""Starts the ranks of this machine, relays their progress, and stops all of them if one fails."""

import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from baichuan_core.errors import BaichuanError, RankFailedError, TrainingPausedError
from baichuan_core.finetuning.distributed.distribution import DistributionPlan
from baichuan_core.finetuning.distributed.group import RankGroup
from baichuan_core.finetuning.distributed.interfaces import find_interface
from baichuan_core.finetuning.distributed.messages import RankTask, ResumePointSaved, RunArguments
from baichuan_core.finetuning.distributed.rank_process import RankProcess
from baichuan_core.finetuning.distributed.rendezvous import Rendezvous
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.free_memory import get_memory_limits
from baichuan_core.progress import Progress, ProgressCallback

POLL_INTERVAL_SECONDS = 0.1
# Time to wait for other errors after the first one: if a rank fails, ranks that depend on it fail too, and may report
# their errors slightly earlier.
GRACE_PERIOD_SECONDS = 1.0


def launch_ranks(
    inputs: RunArguments,
    plan: DistributionPlan,
    *,
    on_gpu: bool,
    should_pause: Callable[[], bool],
    on_resume_point: Callable[[Path], None],
    on_progress: ProgressCallback,
) -> FinetuningReport:
    """Run the ranks of this machine until all have finished.

    The ranks are children in the caller's process group. They are killed if any rank on any machine fails, if this
    function raises an exception, and if the calling thread or process dies.

    Args:
        inputs: Inputs and outputs of the run; the same on every machine.
        plan: Distribution of the run, with the `node_rank` of this machine.
        on_gpu: Whether each rank has a GPU.
        should_pause: Called a few times per second; if it returns true, all ranks save a resume point and exit.
        on_resume_point: Called with the folder of each resume point that rank 0 has completed; only on machine 0.
        on_progress: Called with the progress of this machine's first rank, which on machine 0 is rank 0.

    Returns:
        The report of this machine's first rank.

    Raises:
        RankFailedError: A rank was killed or failed unexpectedly, here or on another machine; the message contains the
            rank and the last lines of its output.
        MemoryError: A rank ran out of memory.
        TrainingPausedError: The run was paused; all ranks on all machines have saved a resume point.
        BaichuanError: A rank raised this error.
    """
    rendezvous = Rendezvous(plan)
    try:
        rendezvous.compare_plans()
        try:
            with _start_ranks(inputs, plan, rendezvous.port, on_gpu=on_gpu) as ranks:
                report = _supervise_ranks(ranks, rendezvous, should_pause, on_resume_point, on_progress)
        except TrainingPausedError:
            rendezvous.close()  # all machines pause at the same step, so this is not a failure of this one
            raise
        rendezvous.close()
    except BaseException as error:
        rendezvous.report_failure(error)
        raise
    return report


@contextmanager
def _start_ranks(
    inputs: RunArguments, plan: DistributionPlan, port: int, *, on_gpu: bool
) -> Iterator[list[RankProcess]]:
    ranks: list[RankProcess] = []
    limits = get_memory_limits()
    try:
        for local_rank in range(plan.processes):
            group = RankGroup(plan.node_rank * plan.processes + local_rank, local_rank, plan.world_size)
            task = RankTask(inputs, plan, group, port, on_gpu, limits)
            ranks.append(RankProcess(task, _make_environment(plan, group, port, on_gpu=on_gpu), sys.stderr))
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
        for rank in ranks:
            rank.close()


def _make_environment(plan: DistributionPlan, group: RankGroup, port: int, *, on_gpu: bool) -> Mapping[str, str]:
    """Return the environment of a rank, with the variables that torch, accelerate and DeepSpeed read."""
    threads = max(1, torch.get_num_threads() // plan.processes)
    defaults = {"OMP_NUM_THREADS": str(threads)}
    if (interface := find_interface(plan.master_addr)) is not None:
        defaults["GLOO_SOCKET_IFNAME"] = interface  # by default, gloo looks up the host name, which may not resolve
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


def _supervise_ranks(
    ranks: list[RankProcess],
    rendezvous: Rendezvous,
    should_pause: Callable[[], bool],
    on_resume_point: Callable[[Path], None],
    on_progress: ProgressCallback,
) -> FinetuningReport:
    pause_requested = False
    while not all(rank.has_exited for rank in ranks):
        for message in _read_messages(ranks, POLL_INTERVAL_SECONDS):
            if isinstance(message, ResumePointSaved):
                on_resume_point(message.folder)
            else:
                on_progress(message)
        if any(rank.has_failed for rank in ranks):
            _wait_for_other_errors(ranks)
            raise choose_error(ranks)
        rendezvous.exchange_heartbeats()
        if not pause_requested and should_pause():
            pause_requested = True
            ranks[0].request_pause()
    report = ranks[0].report
    if report is None or any(rank.has_failed for rank in ranks):
        raise choose_error(ranks)
    return report


def _read_messages(ranks: list[RankProcess], timeout: float) -> list[Progress | ResumePointSaved]:
    """Read the output of all ranks for up to `timeout` seconds; return the messages of the first rank."""
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            for descriptor in rank.descriptors:
                selector.register(descriptor, selectors.EVENT_READ, rank)
        if not selector.get_map():
            time.sleep(timeout)
            return []
        found: list[Progress | ResumePointSaved] = []
        for key, _ in selector.select(timeout):
            messages = list(key.data.read(key.fd))
            found += messages if key.data is ranks[0] else []
        return found


def _wait_for_other_errors(ranks: list[RankProcess]) -> None:
    end = time.monotonic() + GRACE_PERIOD_SECONDS
    while time.monotonic() < end and not all(rank.has_exited for rank in ranks):
        _read_messages(ranks, POLL_INTERVAL_SECONDS)


def choose_error(ranks: list[RankProcess]) -> Exception:
    """Return the most helpful error: any `BaichuanError` or out-of-memory error, otherwise that of a killed rank."""
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
        f"rank {culprit.rank} {culprit.describe_outcome()}; all other ranks were stopped, and the run can continue"
        f" from its last resume point. Last output of rank {culprit.rank}:{printed}"
    )
