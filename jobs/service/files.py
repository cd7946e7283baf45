"""Uploaded files, and artifacts presented as files."""

import re
from dataclasses import replace

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import NotFoundError, UnknownCursorError
from jobs.identifiers import new_id
from jobs.inputs import FileCheckResult
from jobs.records import FileFilter, FileRecord
from jobs.repository import deletions, files
from jobs.service.unneeded import DAY_MS, DeletionReason, record_deletions
from jobs.specs.fields import FILE_ID_PATTERN

FILE_ID_REGEX = re.compile(FILE_ID_PATTERN)


def build_file_record(
    project_id: str, filename: str, purpose: str, size: int, sha256: str, checked: FileCheckResult | None = None
) -> FileRecord:
    """Return the record of a new file, including the key under which the store keeps its bytes."""
    file_id, checked = new_id("file"), checked or FileCheckResult()
    return FileRecord(
        id=file_id,
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        key=f"files/{file_id}",
        bytes=size,
        sha256=sha256,
        created_at=0,
        expires_at=None,
        status=checked.status,
        status_details=checked.details,
    )


def reserve_file(connection: Connection, file: FileRecord) -> None:
    """Schedule a file's bytes, before they are stored, for deletion after a day unless `add` is called by then."""
    now = now_ms(connection)
    record_deletions(connection, [file.key], DeletionReason.UPLOAD, now=now, not_before=now + DAY_MS)


def discard_file(connection: Connection, file: FileRecord) -> None:
    """Schedule a file's bytes for immediate deletion, because the file could not be added."""
    deletions.remove_by_key(connection, file.key, DeletionReason.UPLOAD)
    record_deletions(connection, [file.key], DeletionReason.UPLOAD, now=now_ms(connection))


def add(connection: Connection, file: FileRecord, *, lifetime_seconds: int | None = None) -> FileRecord:
    """Make a stored file visible, for its lifetime or until it is deleted."""
    deletions.remove_by_key(connection, file.key, DeletionReason.UPLOAD)
    now = now_ms(connection)
    expires_at = None if lifetime_seconds is None else now + lifetime_seconds * 1000
    stamped = replace(file, created_at=now, expires_at=expires_at)
    files.add_file(connection, stamped)
    return stamped


def find_identical(
    connection: Connection, file: FileRecord, *, lifetime_seconds: int | None, within_seconds: float
) -> FileRecord | None:
    """Return the file that an identical request added recently, if any."""
    since = now_ms(connection) - int(within_seconds * 1000)
    found = files.find_same_file(connection, file, since=since)
    if found is None or _get_lifetime_ms(found) != (None if lifetime_seconds is None else lifetime_seconds * 1000):
        return None
    return found


def _get_lifetime_ms(file: FileRecord) -> int | None:
    return None if file.expires_at is None else file.expires_at - file.created_at


def get(connection: Connection, project_id: str, file_id: str) -> FileRecord:
    """Return one file.

    Raises:
        NotFoundError: the project has no file with this id, or it has expired.
    """
    found = files.get_files(connection, project_id, [file_id], now=now_ms(connection)).get(file_id)
    if found is None:
        raise NotFoundError(f"there is no file {file_id}; `GET /v1/files` lists your files", param="file_id")
    return found


def list_page(
    connection: Connection, project_id: str, wanted: FileFilter, *, after: str | None, limit: int
) -> list[FileRecord]:
    """Return files of a project, ordered by creation time.

    Raises:
        UnknownCursorError: `after` is not a file id. (The id of a deleted file is valid: clients delete while listing.)
    """
    if after and not FILE_ID_REGEX.fullmatch(after):
        raise UnknownCursorError(after)
    return files.list_files(connection, project_id, wanted, after=after, limit=limit, now=now_ms(connection))
