"""Bulk operations, which cancel, retry or delete all jobs that match a filter, with a short transaction per chunk.

A request only counts the jobs and records the operation. The leader then processes the jobs from the newest to the
oldest. Changes and progress are committed together, so an operation resumes after a crash and processes no job twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.database.journal import add_to_feed
from jobs.errors import DomainError, InUseError, NotFoundError, UnknownCursorError
from jobs.identifiers import new_id
from jobs.records import BulkAction, BulkOperationRecord, JobFilter, JobRecord, Json
from jobs.repository import bulk, jobs, search
from jobs.service import jobs as job_service
from jobs.service.deletions import erase_jobs, find_blocked_jobs
from jobs.service.jobs import JobKey
from jobs.service.transitions import apply_event, cancel_waiting
from jobs.settings import Settings
from jobs.state import Event, JobState

# Jobs per transaction; a chunk holds SQLite's single write lock for about 20 ms.
CHUNK_SIZES: Mapping[BulkAction, int] = {"cancel": 200, "retry": 25, "delete": 50}
STATES_BY_ACTION: Mapping[BulkAction, tuple[JobState, ...]] = {
    "cancel": (JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING),
    "retry": (JobState.FAILED, JobState.CANCELLED),
    "delete": tuple(state for state in JobState if state.is_final),
}
PREVIEW_SIZE = 5
MAX_RECORDED_FAILURES = 5
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class OperationPreview:
    """The effect of an operation: how many jobs match, the newest few, and how many are in use and must be kept."""

    matched: int
    first: Sequence[JobRecord]
    in_use: int


@dataclass(slots=True)
class _Outcome:
    changed: int = 0
    failures: list[Json] = field(default_factory=list)

    def add_failure(self, job_id: str, error: DomainError) -> None:
        self.failures.append({"job_id": job_id, "code": error.code, "message": error.message})


def preview(connection: Connection, project_id: str, action: BulkAction, wanted: JobFilter) -> OperationPreview:
    """Return the effect that an operation would have now."""
    first = _list_newest(connection, project_id, action, wanted, PREVIEW_SIZE)
    records = jobs.get_many(connection, first)
    in_use = 0
    if action == "delete":
        in_use = len(
            find_blocked_jobs(connection, project_id, _list_newest(connection, project_id, action, wanted, NO_LIMIT))
        )
    return OperationPreview(
        count(connection, project_id, action, wanted), [records[job_id] for job_id in first], in_use
    )


def _list_newest(
    connection: Connection, project_id: str, action: BulkAction, wanted: JobFilter, limit: int
) -> list[str]:
    now = now_ms(connection)
    return search.list_ids(
        connection, project_id, wanted, states=STATES_BY_ACTION[action], created_until=now, after=None, limit=limit
    )


def count(connection: Connection, project_id: str, action: BulkAction, wanted: JobFilter) -> int:
    """Return the number of jobs that an operation would process now."""
    counted = search.count_by_state(connection, project_id, wanted)
    return sum(counted.get(state, 0) for state in STATES_BY_ACTION[action])


def record_operation(
    connection: Connection, project_id: str, action: BulkAction, wanted: JobFilter, sent: Json, matched: int
) -> BulkOperationRecord:
    """Record an operation for the leader; `sent` is the filter as shown to clients."""
    made = BulkOperationRecord(
        id=new_id("bulk"),
        project_id=project_id,
        action=action,
        request=sent,
        conditions=asdict(wanted),
        last_job_id=None,
        matched=matched,
        processed=0,
        changed=0,
        failed=0,
        failures=[],
        created_at=now_ms(connection),
        finished_at=None,
    )
    bulk.add(connection, made)
    _add_to_feed(connection, made)
    return made


def get(connection: Connection, project_id: str, bulk_id: str) -> BulkOperationRecord:
    """Return one operation.

    Raises:
        NotFoundError: the project has no operation with this id.
    """
    found = bulk.get(connection, bulk_id)
    if found is None or found.project_id != project_id:
        raise NotFoundError(
            f"there is no operation {bulk_id}; `GET /v1/bulk-operations` lists your project's operations"
        )
    return found


def list_page(connection: Connection, project_id: str, *, after: str | None, limit: int) -> list[BulkOperationRecord]:
    """Return operations of a project, newest first.

    Raises:
        UnknownCursorError: `after` is not an operation of the project.
    """
    known = bulk.get(connection, after) if after else None
    if after and (known is None or known.project_id != project_id):
        raise UnknownCursorError(after)
    return bulk.list_page(connection, project_id, after=after, limit=limit)


def process_chunk(connection: Connection, settings: Settings) -> bool:
    """Process one chunk of the oldest unfinished operation; return False if there is none."""
    operation = bulk.lock_first_unfinished(connection)
    if operation is None:
        return False
    wanted = _read_conditions(operation.conditions)
    limit = CHUNK_SIZES[operation.action]
    ids = search.list_ids(
        connection,
        operation.project_id,
        wanted,
        states=STATES_BY_ACTION[operation.action],
        created_until=operation.created_at,
        after=operation.last_job_id,
        limit=limit,
    )
    taken = _lock_jobs(connection, ids)
    outcome = ACTION_HANDLERS[operation.action](connection, taken, settings)
    _record_progress(connection, operation, taken, outcome, done=len(ids) < limit and len(taken) == len(ids))
    return True


def _lock_jobs(connection: Connection, ids: Sequence[str]) -> list[JobRecord]:
    """Lock jobs in order, stopping at one that another transaction has locked; if that is the first job, wait for it.

    Waiting while holding many locks could deadlock with a transaction that locks jobs in another order.
    """
    free = jobs.lock_skipping_locked(connection, ids)
    taken = [free[job_id] for job_id in takewhile(free.__contains__, ids)]
    if taken or not ids:
        return taken
    first = jobs.lock(connection, ids[0])
    return [first] if first else []


def _cancel_jobs(connection: Connection, taken: Sequence[JobRecord], settings: Settings) -> _Outcome:
    outcome, now = _Outcome(), now_ms(connection)
    waiting = [job for job in taken if job.state is JobState.QUEUED]
    cancel_waiting(connection, waiting, now=now, settings=settings)
    outcome.changed = len(waiting)
    for job in taken:
        if job.state is not JobState.QUEUED:
            _apply_change(
                connection,
                outcome,
                job,
                lambda job=job: apply_event(connection, job, Event.CANCEL, now=now, settings=settings),  # type: ignore[misc]
            )
    return outcome


def _retry_jobs(connection: Connection, taken: Sequence[JobRecord], settings: Settings) -> _Outcome:
    outcome = _Outcome()
    for job in taken:
        key = JobKey(job.project_id, job.id)
        _apply_change(connection, outcome, job, lambda key=key: job_service.retry(connection, key, settings))  # type: ignore[misc]
    return outcome


def _delete_jobs(connection: Connection, taken: Sequence[JobRecord], settings: Settings) -> _Outcome:
    erased = set(erase_jobs(connection, [job.id for job in taken], settings))
    outcome = _Outcome(len(erased))
    for job in taken:
        if job.id not in erased:
            message = f"the model that job {job.id} made is used by other jobs or models; delete or cancel those first"
            outcome.add_failure(job.id, InUseError(message))
    return outcome


ACTION_HANDLERS: Mapping[BulkAction, Callable[[Connection, Sequence[JobRecord], Settings], _Outcome]] = {
    "cancel": _cancel_jobs,
    "retry": _retry_jobs,
    "delete": _delete_jobs,
}


def _apply_change(connection: Connection, outcome: _Outcome, job: JobRecord, change: Callable[[], object]) -> None:
    """Change one job; an error undoes only this change."""
    try:
        with connection.begin_nested():
            change()
        outcome.changed += 1
    except DomainError as error:
        outcome.add_failure(job.id, error)


def _record_progress(
    connection: Connection, operation: BulkOperationRecord, taken: Sequence[JobRecord], outcome: _Outcome, *, done: bool
) -> None:
    now = now_ms(connection)
    progressed = replace(
        operation,
        last_job_id=taken[-1].id if taken else operation.last_job_id,
        processed=operation.processed + len(taken),
        changed=operation.changed + outcome.changed,
        failed=operation.failed + len(outcome.failures),
        failures=[*operation.failures, *outcome.failures][:MAX_RECORDED_FAILURES],
        finished_at=now if done else None,
    )
    names = ("last_job_id", "processed", "changed", "failed", "failures", "finished_at")
    bulk.update(connection, operation.id, {name: getattr(progressed, name) for name in names})
    _add_to_feed(connection, progressed)


def _add_to_feed(connection: Connection, operation: BulkOperationRecord) -> None:
    names = ("id", "action", "matched", "processed", "changed", "failed")
    data = {name: getattr(operation, name) for name in names} | {"done": operation.finished_at is not None}
    add_to_feed(connection, operation.project_id, None, "bulk", data, now=operation.finished_at or now_ms(connection))


def _read_conditions(stored: Json) -> JobFilter:
    """Return the filter of a stored operation, with the lists from JSON converted to tuples."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return JobFilter(**values)
