"""Uploads of files in parts, as in OpenAI's API: an upload is created, filled, and then completed or cancelled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import ConflictError, InvalidRequestError, NotFoundError
from jobs.identifiers import new_id
from jobs.records import FileRecord, UploadPartRecord, UploadRecord
from jobs.repository import files as file_rows
from jobs.repository import uploads
from jobs.service import files
from jobs.service.unneeded import DAY_MS, DeletionReason, record_deletions

UPLOAD_TTL_MS = 3_600_000  # lifetime of a pending upload, as in OpenAI's API
EXPIRED_RETENTION_MS = DAY_MS  # how long the row of an expired upload is kept


class UploadStatus(StrEnum):
    """The status of an upload."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # never stored; shown for a pending upload that has expired


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An upload as the client announces it."""

    filename: str
    purpose: str
    bytes: int
    lifetime_seconds: int | None


def create(connection: Connection, project_id: str, new: NewUpload) -> UploadRecord:
    """Record an upload; its parts must arrive within an hour."""
    now = now_ms(connection)
    upload = UploadRecord(
        id=new_id("upload"),
        project_id=project_id,
        filename=new.filename,
        purpose=new.purpose,
        bytes=new.bytes,
        lifetime_seconds=new.lifetime_seconds,
        status=UploadStatus.PENDING,
        file_id=None,
        created_at=now,
        expires_at=now + UPLOAD_TTL_MS,
    )
    uploads.add(connection, upload)
    return upload


def reserve_part(connection: Connection, project_id: str, upload_id: str) -> UploadPartRecord:
    """Return the record of a part that is about to be stored; its bytes are deleted once the upload has expired.

    Raises:
        NotFoundError: there is no such upload.
        ConflictError: it is not pending.
    """
    upload = _get_pending(connection, project_id, upload_id)
    part_id = new_id("part")
    key = f"uploads/{upload_id}/{part_id}"
    not_before = upload.expires_at + UPLOAD_TTL_MS
    record_deletions(connection, [key], DeletionReason.UPLOAD, now=now_ms(connection), not_before=not_before)
    return UploadPartRecord(part_id, upload_id, key, bytes=0, created_at=0)


def add_part(connection: Connection, project_id: str, part: UploadPartRecord) -> UploadPartRecord:
    """Make a stored part available.

    Raises:
        ConflictError: the upload is no longer pending.
    """
    _get_pending(connection, project_id, part.upload_id)
    stamped = replace(part, created_at=now_ms(connection))
    uploads.add_part(connection, stamped)
    return stamped


def choose_parts(
    connection: Connection, project_id: str, upload_id: str, part_ids: Sequence[str]
) -> tuple[UploadRecord, list[UploadPartRecord]]:
    """Return a pending upload and the parts that will form its file.

    Raises:
        NotFoundError: there is no such upload.
        ConflictError: it is not pending.
        InvalidRequestError: a part is unknown or named twice, or the parts do not have the announced size.
    """
    upload = _get_pending(connection, project_id, upload_id)
    known = {part.id: part for part in uploads.list_parts(connection, upload_id)}
    for part_id in part_ids:
        if part_id not in known:
            raise InvalidRequestError(f"upload {upload_id} has no part {part_id}", param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequestError("a part is listed twice; list each part once, in file order", param="part_ids")
    chosen = [known[part_id] for part_id in part_ids]
    size = sum(part.bytes for part in chosen)
    if size != upload.bytes:
        message = f"the parts have {size} bytes, but the upload was created with bytes={upload.bytes}"
        raise InvalidRequestError(f"{message}; add the missing parts, or create a new upload", param="part_ids")
    return upload, chosen


def complete(connection: Connection, upload: UploadRecord, file: FileRecord) -> FileRecord:
    """Add the file of an upload, or return the file that an identical request has already added."""
    locked = uploads.get(connection, upload.project_id, upload.id, lock=True)
    if locked is not None and locked.status == UploadStatus.COMPLETED and (done := find_file(connection, locked)):
        return done
    _get_pending(connection, upload.project_id, upload.id)
    added = files.add(connection, file, lifetime_seconds=upload.lifetime_seconds)
    _end_upload(connection, upload.id, UploadStatus.COMPLETED, file_id=added.id)
    return added


def cancel(connection: Connection, project_id: str, upload_id: str) -> UploadRecord:
    """Cancel a pending upload. Cancelling twice is not an error.

    Raises:
        NotFoundError: there is no such upload.
        ConflictError: it is completed or expired.
    """
    upload = get(connection, project_id, upload_id)
    if upload.status == UploadStatus.CANCELLED:
        return upload
    _get_pending(connection, project_id, upload_id)
    _end_upload(connection, upload_id, UploadStatus.CANCELLED)
    return get(connection, project_id, upload_id)


def get(connection: Connection, project_id: str, upload_id: str) -> UploadRecord:
    """Return an upload with its effective status, which may be `expired`.

    Raises:
        NotFoundError: the project has no upload with this id.
    """
    found = uploads.get(connection, project_id, upload_id, lock=True)
    if found is None:
        raise NotFoundError(f"there is no upload {upload_id}; create one with `POST /v1/uploads`", param="upload_id")
    expired = found.status == UploadStatus.PENDING and found.expires_at < now_ms(connection)
    return replace(found, status=UploadStatus.EXPIRED) if expired else found


def find_file(connection: Connection, upload: UploadRecord) -> FileRecord | None:
    """Return the file of a completed upload; None if it has been deleted."""
    ids = [upload.file_id] if upload.file_id else []
    return file_rows.get_files(connection, upload.project_id, ids, now=now_ms(connection)).get(upload.file_id or "")


def delete_expired(connection: Connection) -> None:
    """Delete the rows of uploads that expired more than a day ago."""
    uploads.delete_expired(connection, before=now_ms(connection) - EXPIRED_RETENTION_MS)


def _get_pending(connection: Connection, project_id: str, upload_id: str) -> UploadRecord:
    upload = get(connection, project_id, upload_id)
    if upload.status != UploadStatus.PENDING:
        raise ConflictError(f"upload {upload_id} is {upload.status}; create a new one", param="upload_id")
    return upload


def _end_upload(connection: Connection, upload_id: str, status: UploadStatus, *, file_id: str | None = None) -> None:
    """Record the upload's final status and schedule its parts for immediate deletion."""
    keys = [part.key for part in uploads.list_parts(connection, upload_id)]
    uploads.delete_parts(connection, upload_id)
    uploads.update(connection, upload_id, {"status": status, "file_id": file_id})
    record_deletions(connection, keys, DeletionReason.UPLOAD, now=now_ms(connection))
