"""TEMPORARY stand-in."""

from dataclasses import dataclass

import sqlalchemy as sa

from jobs.database.tables import Attempt, Job


@dataclass(frozen=True, slots=True)
class Door:
    attempt_id: str
    job_id: str
    worker_id: str


def find_doors(connection, project_id, model_key):
    q = (
        sa.select(Attempt.id, Attempt.job_id, Attempt.worker_id, Job.requirement)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.state == "running", Job.kind == "serve", Job.project_id == project_id)
    )
    return [Door(*r[:3]) for r in connection.execute(q) if r.requirement.get("model") == model_key]
