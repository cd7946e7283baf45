"""Ends overdue attempts: those that no worker claimed, and those whose worker stopped reporting."""

import logging
from dataclasses import dataclass

from jobs.database import Database, now_ms
from jobs.repository import allocations
from jobs.service.dispatching import end_overdue_attempt
from jobs.settings import Settings

BATCH_SIZE = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReapedAttempt:
    """An overdue attempt that has been ended, and the worker that did not claim or renew it in time."""

    attempt_id: str
    worker_id: str
    claimed: bool


def reap_overdue_attempts(database: Database, settings: Settings) -> list[ReapedAttempt]:
    """End up to `BATCH_SIZE` overdue attempts, each in a separate transaction; return the ended ones."""
    with database.reading() as connection:
        overdue = allocations.list_overdue(connection, now=now_ms(connection), limit=BATCH_SIZE)
    ended = []
    for late in overdue:
        with database.writing() as connection:
            state = end_overdue_attempt(connection, late, settings)
        if state is not None:
            ended.append(ReapedAttempt(late.attempt_id, late.worker_id, late.claimed_at is not None))
            log.warning(
                "attempt %s of job %s on worker %s missed its deadline and was ended; the job is now %s",
                late.attempt_id,
                late.job_id,
                late.worker_id,
                state,
            )
    return ended
