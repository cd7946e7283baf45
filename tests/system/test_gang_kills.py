"""Any process of a gang is killed again and again during a step: the job ends as if nothing had happened.

`BAICHUAN_TEST_KILLS=10 pytest -m long tests/system/test_gang_kills.py` kills ten times each.
"""

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import torch

from jobs.records import AttemptRecord
from tests.system.declared_devices import gpus, running_pool
from tests.system.gangs import PATIENCE, adapter, processes_of, ranks_of, runners_of, train
from tests.workers.deployment import Deployment, wait_for

KILLS = int(os.environ.get("BAICHUAN_TEST_KILLS", "2"))
MAX_KILLS_PER_JOB = 5
WORKERS = ("a", "b")
# Dropout shows whether the random numbers continue as well.
RUN: dict[str, Any] = {"batch_size": 1, "epochs": 20, "save_steps": 1, "lora_dropout": 0.1, "max_attempts": 10}
log = logging.getLogger(__name__)

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300 + 120 * KILLS)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two workers, which are two machines to the service."""
    with running_pool(tmp_path_factory.mktemp("gangs")) as running:
        for name in WORKERS:
            running.start_worker(name, devices=gpus(name, 24))
        yield running


@pytest.fixture(scope="module")
def undisturbed(service: Deployment) -> dict[str, torch.Tensor]:
    """Return the weights of a run that nobody disturbs."""
    job = service.wait(train(service, **RUN, resources={"nodes": 2}), "succeeded", seconds=PATIENCE)
    return adapter(service, job)


def kill_rank(service: Deployment, worker: str) -> None:
    os.kill(ranks_of(service, worker)[-1], signal.SIGKILL)


def kill_worker(service: Deployment, worker: str) -> None:
    service.end(worker, signal.SIGKILL)


def kill_node(service: Deployment, worker: str) -> None:
    """Kill the worker with all that it has started, as a power failure does."""
    started = psutil.Process(service.running[worker].pid).children(recursive=True)
    processes = {child.pid for child in started} | processes_of(runners_of(service, worker)).keys()
    kill_worker(service, worker)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_for_step(service: Deployment, job_id: str, before: Any, steps: int) -> int:
    """Wait until an attempt has done some steps; return the last one.

    `before` is the progress that the attempt before it has left.
    """
    first: int | None = None

    def look() -> int | None:
        nonlocal first
        job = service.job(job_id)
        assert not job.state.is_final, (job.state, job.error, service.printed(job_id))
        progress = job.progress or {}
        if job.progress == before or progress.get("stage") != "training":
            return None
        step = int(progress["metrics"].get("step", 0))
        first = step if first is None else first
        return step if step >= max(1, first) + steps else None

    return wait_for(f"{steps} steps", look, seconds=PATIENCE)


def attempts_of(service: Deployment, job_id: str) -> list[AttemptRecord]:
    """Return the attempts in the order in which they began."""
    return sorted(service.attempts(job_id), key=lambda attempt: attempt.number)


def disturb(service: Deployment, job_id: str, kills: int, chosen: random.Random, kill: Callable[..., None]) -> None:
    """Kill in a step of each attempt, and start again what is gone."""
    progress: Any = None
    for number in range(kills):
        victim = chosen.choice(WORKERS)
        step = wait_for_step(service, job_id, progress, chosen.randint(0, 5))
        time.sleep(chosen.random() / 10)  # somewhere in the step, not just after one
        ranks = set(ranks_of(service, *WORKERS))  # those of the next attempt may start at once
        killed_at = time.monotonic()
        kill(service, victim)
        wait_for("the attempt to end", lambda: attempts_of(service, job_id)[number].finished_at)  # noqa: B023
        wait_for("its ranks to be gone", lambda: ranks.isdisjoint(ranks_of(service, *WORKERS)))  # noqa: B023
        progress = service.job(job_id).progress
        log.info("%s %s at step %d: gone after %.1f s", kill.__name__, victim, step, time.monotonic() - killed_at)
        if victim not in service.running:
            service.start_worker(victim, devices=gpus(victim, 24))


@pytest.mark.parametrize("kill", [kill_rank, kill_worker, kill_node])
def test_a_gang_survives_kills_with_the_weights_of_an_undisturbed_run(
    service: Deployment, undisturbed: dict[str, torch.Tensor], kill: Callable[..., None]
) -> None:
    for before in range(0, KILLS, MAX_KILLS_PER_JOB):
        kills = min(MAX_KILLS_PER_JOB, KILLS - before)
        chosen = random.Random(f"{kill.__name__} {before}")  # noqa: S311 - which process dies is no secret
        job_id = train(service, **RUN, resources={"nodes": 2})
        disturb(service, job_id, kills, chosen, kill)
        job = service.wait(job_id, "succeeded", seconds=PATIENCE)
        *ended, _ = attempts_of(service, job_id)
        assert len(ended) == kills
        if kill is kill_rank:
            assert {(each.error or {}).get("code") for each in ended} <= {"rank_failed", "runner_died"}
        assert job.result is not None
        assert job.result["resumed_from_step"] > 0
        weights = adapter(service, job)
        assert weights.keys() == undisturbed.keys()
        assert all(torch.equal(weights[name], weight) for name, weight in undisturbed.items())
