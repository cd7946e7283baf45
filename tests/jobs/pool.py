"""Workers and attempts on them, for tests of the job domain."""

from collections.abc import Sequence

from sqlalchemy import Connection

from jobs.database import Database
from jobs.records import WorkerRecord
from jobs.scheduling import NodePlacement, Placement
from jobs.service import workers
from jobs.service.attempts import HeldAttempt, claim
from jobs.service.dispatching import dispatch_job
from jobs.settings import Settings
from jobs.specs import KINDS

CPU = {"type": "cpu", "index": 0, "uuid": "cpu-0", "name": "CPU", "memory_bytes": 2**40}


def add_worker(
    database: Database, name: str, slots: int = 1, state: str = "active", kinds: Sequence[str] = KINDS
) -> None:
    """Report a worker on a large CPU machine."""
    with database.writing() as connection:
        workers.record_heartbeat(connection, WorkerRecord(name, "host", 1, state, list(kinds), slots, [CPU], 1, 1))


def dispatch_to(connection: Connection, job_id: str, worker_id: str, settings: Settings) -> str | None:
    """Begin an attempt on a worker without devices."""
    return dispatch_job(connection, Placement(job_id, (NodePlacement(worker_id, (), 0),)), settings)


def start_on(connection: Connection, job_id: str, worker_id: str, settings: Settings) -> str:
    """Begin an attempt on a worker, and claim it."""
    attempt_id = dispatch_to(connection, job_id, worker_id, settings)
    assert attempt_id is not None
    assert claim(connection, attempt_id, worker_id, settings) is not None
    return attempt_id


def hold(connection: Connection, attempt_id: str, worker_id: str, settings: Settings) -> HeldAttempt:
    """Lock a running attempt, which the worker must hold."""
    held = HeldAttempt.lock(connection, settings, attempt_id, worker_id)
    assert held is not None
    return held
