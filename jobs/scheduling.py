"""Which job goes to which worker: a pure function of a snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job that could start now."""

    id: str
    kind: str
    priority: int


@dataclass(frozen=True, slots=True)
class FreeWorker:
    """A worker that takes jobs, with the number of slots that are free.

    One that let an attempt expire lately reports to the database, but may not hear the broker.
    """

    id: str
    kinds: frozenset[str]
    slots: int
    expired_lately: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """One decision."""

    job_id: str
    worker_id: str


def place(waiting: Sequence[WaitingJob], workers: Sequence[FreeWorker]) -> list[Placement]:
    """Give each job, by priority and then by age, to the worker with most free slots that can run its kind.

    Ids grow with time, so they are the age. A job that no free worker can run does not hold up those behind it. Workers
    that let an attempt expire come last: a deaf one would swallow a job for ever while others are idle.
    """
    free = {worker.id: worker.slots for worker in workers}
    placements = []
    for job in sorted(waiting, key=lambda job: (-job.priority, job.id)):
        able = [worker for worker in workers if free[worker.id] > 0 and job.kind in worker.kinds]
        if able:
            chosen = max(able, key=lambda worker: (not worker.expired_lately, free[worker.id]))
            free[chosen.id] -= 1
            placements.append(Placement(job.id, chosen.id))
    return placements
