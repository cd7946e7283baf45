"""Attempts that answer chats on a model."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Attempt, Job
from jobs.results.progress import SERVING
from jobs.state import AttemptState, JobState


@dataclass(frozen=True, slots=True)
class Door:
    """A running attempt that has reported that it accepts chats."""

    attempt_id: str
    job_id: str
    worker_id: str


def find_doors(connection: Connection, project_id: str, model_key: str) -> list[Door]:
    """Return the attempts of a project that accept chats on a model, see `LoadedModel.key`."""
    query = (
        sa.select(Attempt.id, Attempt.job_id, Attempt.worker_id, Job.requirement, Job.progress)
        .join(Job, Job.attempt_id == Attempt.id)
        .where(
            Job.project_id == project_id,
            Job.state == JobState.RUNNING,
            Job.kind == "serve",
            Attempt.state == AttemptState.RUNNING,
        )
    )
    return [
        Door(row.id, row.job_id, row.worker_id)
        for row in connection.execute(query)
        if row.requirement.get("model") == model_key and (row.progress or {}).get("stage") == SERVING
    ]
