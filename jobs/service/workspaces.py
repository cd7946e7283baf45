"""A query for unneeded workspaces on the disks of workers, which the leader cannot reach."""

from collections.abc import Iterable

from sqlalchemy import Connection

from jobs.artifacts import Workspace
from jobs.database import now_ms
from jobs.repository import uses
from jobs.service.unneeded import DAY_MS
from jobs.settings import Settings


def list_unneeded(connection: Connection, spaces: Iterable[Workspace], settings: Settings) -> list[str]:
    """Return the keys of the workspaces from which no attempt will ever resume.

    A workspace is needed until its job is final and, if the job failed or was cancelled, for as long as resume
    points are kept.
    """
    kept_ms = int(settings.keep_resume_points_days * DAY_MS)
    ended_since = now_ms(connection) - kept_ms if kept_ms else 0
    return [
        space.key for space in spaces if not uses.is_workspace_needed(connection, space.job_id, ended_since=ended_since)
    ]
