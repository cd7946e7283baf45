"""Deletion records: written in the transaction that makes files unneeded, and processed by the leader.

Files are deleted from the artifact store in no other way.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from sqlalchemy import Connection

from jobs.artifacts import Workspace, input_key
from jobs.database import now_ms
from jobs.identifiers import new_id
from jobs.records import DeletionRecord
from jobs.repository import deletions, uses
from jobs.settings import Settings
from jobs.state import AttemptState, JobState

DAY_MS = 24 * 3600 * 1000
# The worker of a lost attempt may keep writing until it checks its lease, well within this many lease periods.
ZOMBIE_LEASE_PERIODS = 2


class DeletionReason(StrEnum):
    """The reason for a deletion."""

    ATTEMPT_ENDED = "attempt_ended"  # the output of an attempt that did not succeed
    JOB_ENDED = "job_ended"  # workspaces of a job that has succeeded, apart from the files of its result
    RESUME_POINTS = "resume_points"  # resume points of a failed or cancelled job, once they are no longer kept
    USER = "user"  # deleted by a user, or together with its job
    EXPIRED = "expired"
    UPLOAD = "upload"  # bytes that no row refers to yet; the transaction that inserts the row removes this record


def record_deletions(
    connection: Connection,
    keys: Iterable[str],
    reason: DeletionReason,
    *,
    now: int,
    job_id: str | None = None,
    not_before: int = 0,
    repeat_at: int | None = None,
) -> None:
    """Schedule these keys in the artifact store for deletion now or at `not_before`, and again at `repeat_at`."""
    times = [max(now, not_before), *([] if repeat_at is None else [repeat_at])]
    records = [_make_record(key, job_id, reason, now, time) for key in keys for time in times]
    deletions.add(connection, records)


def schedule_unneeded_deletions(
    connection: Connection, job_id: str, target: JobState, ended_attempt: str | None, *, now: int, settings: Settings
) -> None:
    """Schedule the deletion of files that are no longer needed after a job has moved to `target`.

    Args:
        connection: The transition's transaction, in which the attempt's new state has already been recorded.
        job_id: The job.
        target: Its new state.
        ended_attempt: The attempt that this transition has ended, if any.
        now: Time of the transition.
        settings: The settings, for the lease time and for how long resume points are kept.
    """
    if not target.is_final and ended_attempt is None:
        return
    states = uses.get_claimed_attempt_states(connection, job_id)
    if not target.is_final:
        states = {attempt: state for attempt, state in states.items() if attempt == ended_attempt}
    repeat_at = _get_repeat_time(now, settings) if AttemptState.LOST in states.values() else None
    for reason, keys in _find_unneeded_keys(job_id, target, states).items():
        kept_days = settings.keep_resume_points_days
        if reason is not DeletionReason.RESUME_POINTS:
            record_deletions(connection, keys, reason, now=now, job_id=job_id, repeat_at=repeat_at)
        elif kept_days:
            not_before = now + int(kept_days * DAY_MS)
            record_deletions(connection, keys, reason, now=now, job_id=job_id, not_before=not_before)


def reserve_input(connection: Connection, job_id: str) -> None:
    """Schedule a new job's input, before it is stored, for deletion after a day unless the job exists by then."""
    now = now_ms(connection)
    record_deletions(
        connection, [input_key(job_id)], DeletionReason.UPLOAD, now=now, job_id=job_id, not_before=now + DAY_MS
    )


def discard_input(connection: Connection, job_id: str) -> None:
    """Schedule the input of a rejected job for immediate deletion."""
    record_deletions(connection, [input_key(job_id)], DeletionReason.UPLOAD, now=now_ms(connection), job_id=job_id)


def keep_resume_points(connection: Connection, job_id: str) -> None:
    """Cancel the deletion of a job's resume points, because a user is retrying the job."""
    deletions.remove_unclaimed(connection, job_id, DeletionReason.RESUME_POINTS)


def list_resumable_attempts(
    connection: Connection, job_id: str, attempt_ids: Sequence[str], *, due: int | None = None
) -> list[str]:
    """Return the attempts whose resume points are not scheduled for deletion or, with `due`, not by that time."""
    doomed = set(deletions.list_keys(connection, job_id, due=due))
    spaces = {attempt_id: Workspace(job_id, attempt_id) for attempt_id in attempt_ids}
    return [each for each, space in spaces.items() if not {space.key, space.checkpoints} & doomed]


def record_job_files(connection: Connection, job_ids: Iterable[str], *, now: int, settings: Settings) -> None:
    """Schedule all files of deleted jobs for deletion now, and again once no attempt can still be writing."""
    times = (now, _get_repeat_time(now, settings))
    deletions.add(
        connection,
        [
            _make_record(f"jobs/{job_id}", job_id, DeletionReason.USER, now, time)
            for job_id in job_ids
            for time in times
        ],
    )


def is_key_in_use(connection: Connection, key: str, job_id: str | None) -> bool:
    """Whether a row refers to this key in the store or to anything below it, or an open attempt may write there."""
    if job_id is None:
        return uses.file_exists(connection, key.rpartition("/")[2])
    if key == input_key(job_id):
        return uses.job_exists(connection, job_id)
    if uses.is_published(connection, job_id, key):
        return True
    spaces = [Workspace(job_id, attempt_id).key for attempt_id in uses.list_open_attempts(connection, job_id)]
    return any(f"{space}/".startswith(f"{key}/") or key.startswith(f"{space}/") for space in spaces)


def _find_unneeded_keys(job_id: str, target: JobState, states: Mapping[str, str]) -> dict[DeletionReason, list[str]]:
    spaces = {attempt_id: Workspace(job_id, attempt_id) for attempt_id in states}
    outputs = [space.output for space in spaces.values()]
    match target:
        case JobState.SUCCEEDED:
            kept = {attempt_id for attempt_id, state in states.items() if state == AttemptState.SUCCEEDED}
            keys = [space.checkpoints if each in kept else space.key for each, space in spaces.items()]
            return {DeletionReason.JOB_ENDED: keys}
        case JobState.FAILED | JobState.CANCELLED:
            resume_points = [space.checkpoints for space in spaces.values()]
            return {DeletionReason.ATTEMPT_ENDED: outputs, DeletionReason.RESUME_POINTS: resume_points}
        case _:
            return {DeletionReason.ATTEMPT_ENDED: outputs}


def _get_repeat_time(now: int, settings: Settings) -> int:
    return now + int(ZOMBIE_LEASE_PERIODS * settings.lease_seconds * 1000)


def _make_record(
    key: str | None, job_id: str | None, reason: DeletionReason, now: int, not_before: int
) -> DeletionRecord:
    return DeletionRecord(new_id("del"), key, job_id, reason, not_before, attempts=0, created_at=now)
