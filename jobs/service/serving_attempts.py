"""A query for the attempts that answer chats for a model."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Attempt, Job
from jobs.state import AttemptState, JobState


@dataclass(frozen=True, slots=True)
class ServingAttempt:
    """A running attempt that has reported that it accepts chats.

    Attributes:
        attempt_id: The attempt.
        job_id: Its job.
        worker_id: The worker of its first node.
        is_dedicated: Whether it only answers chats; a generate job answers them alongside its own requests, with
            less capacity.
    """

    attempt_id: str
    job_id: str
    worker_id: str
    is_dedicated: bool


def find_serving_attempts(connection: Connection, project_id: str, model_key: str) -> list[ServingAttempt]:
    """Return the attempts of a project that accept chats for a model; `model_key` is its `LoadedModel.key`."""
    query = (
        sa.select(Attempt.id, Attempt.job_id, Attempt.worker_id, Job.requirement, Job.kind)
        .join(Job, Job.attempt_id == Attempt.id)
        .where(
            Job.project_id == project_id,
            Job.state == JobState.RUNNING,
            Attempt.state == AttemptState.RUNNING,
            Attempt.accepts_chats.is_(True),
        )
    )
    return [
        ServingAttempt(row.id, row.job_id, row.worker_id, row.kind == "serve")
        for row in connection.execute(query)
        if row.requirement.get("model") == model_key
    ]
