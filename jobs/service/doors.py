"""Which attempts accept chats: here, all running attempts of serve jobs; the worker side refines it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs.records import JobFilter
from jobs.repository import attempts, search
from jobs.state import AttemptState, JobState

LIMIT = 100


@dataclass(frozen=True, slots=True)
class Door:
    """A running attempt that accepts chats on a model."""

    attempt_id: str
    job_id: str
    worker_id: str


def find_doors(connection: Connection, project_id: str, model_key: str) -> Sequence[Door]:
    """Return the attempts of a project that accept chats on a loaded model; see `LoadedModel.key`."""
    wanted = JobFilter(kind="serve", states=(JobState.RUNNING,))
    doors = []
    for job in search.page(connection, project_id, wanted, after=None, limit=LIMIT):
        if job.requirement.get("model") == model_key and job.attempt_id is not None:
            attempt = attempts.get(connection, job.attempt_id)
            if attempt is not None and attempt.state == AttemptState.RUNNING:
                doors.append(Door(attempt.id, job.id, attempt.worker_id))
    return doors
