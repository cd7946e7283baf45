"""Repairs what was lost: attempts that nobody picked up, and attempts whose worker went silent."""

import logging

from jobs.database import Database, now_ms
from jobs.records import AttemptRecord
from jobs.repository import attempts
from jobs.service.attempts import give_up_overdue
from jobs.settings import Settings

BATCH = 100

log = logging.getLogger(__name__)


def reap(database: Database, settings: Settings) -> list[AttemptRecord]:
    """End all overdue attempts, each in a transaction of its own; returns them as they were."""
    with database.reading() as connection:
        overdue = attempts.overdue(connection, now=now_ms(connection), limit=BATCH)
    ended = []
    for attempt in overdue:
        with database.writing() as connection:
            state = give_up_overdue(connection, attempt, settings)
        if state is not None:
            ended.append(attempt)
            log.warning(
                "attempt %s of %s on %s is over; the job is %s",
                attempt.id,
                attempt.job_id,
                attempt.worker_id,
                state,
            )
    return ended
