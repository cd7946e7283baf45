"""Uploaded files."""

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import NotFoundError
from jobs.identifiers import new_id
from jobs.records import FileRecord
from jobs.repository import files


def new_file(project_id: str, filename: str, purpose: str, size: int, sha256: str) -> FileRecord:
    """The record of a file that has arrived; its key says where in the store to put the bytes."""
    file_id = new_id("file")
    return FileRecord(file_id, project_id, filename, purpose, f"files/{file_id}", size, sha256, created_at=0)


def add(connection: Connection, file: FileRecord) -> FileRecord:
    """Make a file visible whose bytes are in the store."""
    stamped = FileRecord(
        file.id,
        file.project_id,
        file.filename,
        file.purpose,
        file.key,
        file.bytes,
        file.sha256,
        now_ms(connection),
    )
    files.add_file(connection, stamped)
    return stamped


def get(connection: Connection, project_id: str, file_id: str) -> FileRecord:
    """One file.

    Raises:
        NotFoundError: there is none of this id in the project.
    """
    found = files.get_files(connection, project_id, [file_id]).get(file_id)
    if found is None:
        raise NotFoundError(f"there is no file {file_id}; `GET /v1/files` lists yours", param="file_id")
    return found


def page(
    connection: Connection, project_id: str, *, purpose: str | None, after: str | None, limit: int
) -> list[FileRecord]:
    """Files of a project, newest first."""
    return files.page_files(connection, project_id, purpose=purpose, after=after, limit=limit)


def delete(connection: Connection, project_id: str, file_id: str) -> FileRecord:
    """Forget a file; the caller deletes its bytes afterwards.

    Raises:
        NotFoundError: there is none of this id in the project.
    """
    found = get(connection, project_id, file_id)
    files.delete_file(connection, file_id)
    return found
