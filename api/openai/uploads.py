"""/v1/uploads: files that arrive in parts."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import Field, StringConstraints

from api.dependencies import Caller, CurrentCaller
from api.file_form import MAX_LIFETIME_SECONDS, MIN_LIFETIME_SECONDS
from api.file_keeping import keep_file
from api.json_bodies import OpenAIRoute
from api.openai.bodies import RequestBody
from api.responses import json_response
from api.schemas.pages import IdentifiedObject
from api.schemas.purposes import PURPOSES, to_displayed_purpose
from api.schemas.resources import FileObject
from api.schemas.times import to_seconds
from api.uploads import (
    ReceivedFile,
    create_storage_full_error,
    create_too_large_error,
    receive_part,
    temporary_file,
    translate_storage_errors,
    validate_filename,
)
from jobs.errors import InvalidRequestError
from jobs.records import FileRecord, UploadPartRecord, UploadRecord
from jobs.service import uploads
from jobs.service.uploads import NewUpload, UploadStatus

router = APIRouter(prefix="/v1/uploads", tags=["openai"], route_class=OpenAIRoute)

PART_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
Filename = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class ExpiresAfter(RequestBody):
    """The expiration time of the file, relative to its creation."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_LIFETIME_SECONDS, le=MAX_LIFETIME_SECONDS)


class UploadBody(RequestBody):
    """A file that will be uploaded in parts."""

    bytes: int = Field(ge=0)
    filename: Filename
    mime_type: Annotated[str, StringConstraints(min_length=1, max_length=255)] = Field(
        description="Ignored; the content type of downloads depends on the filename"
    )
    purpose: str = Field(json_schema_extra={"enum": list(PURPOSES)})
    expires_after: ExpiresAfter | None = None


class UploadCompletionBody(RequestBody):
    """The parts of the file, in order."""

    part_ids: list[str] = Field(max_length=10_000)
    md5: str | None = Field(None, pattern=r"^[0-9a-fA-F]{32}$")


class UploadObject(IdentifiedObject):
    """An upload."""

    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = None

    @classmethod
    def from_record(cls, upload: UploadRecord, file: FileRecord | None = None) -> Self:
        """Return the upload as clients see it."""
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=to_seconds(upload.created_at),
            expires_at=to_seconds(upload.expires_at),
            filename=upload.filename,
            purpose=to_displayed_purpose(upload.purpose),
            status=UploadStatus(upload.status).value,
            file=None if file is None else FileObject.from_record(file),
        )


class UploadPartObject(IdentifiedObject):
    """A part of an upload."""

    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


@router.post("", response_model=UploadObject)
async def create_upload(body: UploadBody, caller: CurrentCaller) -> Response:
    """Start the upload of a file; its parts must arrive within an hour."""
    if body.purpose not in PURPOSES:
        raise InvalidRequestError(f"must be one of {', '.join(PURPOSES)}", param="purpose")
    if body.bytes > caller.service.settings.max_upload_bytes:
        raise create_too_large_error(caller.service.settings, "bytes")
    lifetime = body.expires_after.seconds if body.expires_after else None
    new = NewUpload(validate_filename(body.filename, "filename"), body.purpose, body.bytes, lifetime)
    made = await caller.service.writer.run(lambda c: uploads.create(c, caller.project_id, new))
    return json_response(UploadObject.from_record(made))


@router.post("/{upload_id}/parts", response_model=UploadPartObject, openapi_extra=PART_BODY)
async def add_part(upload_id: str, request: Request, caller: CurrentCaller) -> Response:
    """Add a part; parts may arrive in any order and at the same time."""
    service = caller.service
    await service.writer.run(lambda c: uploads.get(c, caller.project_id, upload_id))
    async with receive_part(request, service.store, service.settings) as arrived:
        expected = await service.writer.run(lambda c: uploads.reserve_part(c, caller.project_id, upload_id))
        with translate_storage_errors():
            await asyncio.to_thread(service.store.put, arrived.path, expected.key)
    whole = replace(expected, bytes=arrived.bytes)
    part = await service.writer.run(lambda c: uploads.add_part(c, caller.project_id, whole))
    return json_response(UploadPartObject(id=part.id, created_at=to_seconds(part.created_at), upload_id=upload_id))


@router.post("/{upload_id}/complete", response_model=UploadObject)
async def complete_upload(upload_id: str, body: UploadCompletionBody, caller: CurrentCaller) -> Response:
    """Join the parts into a file. Completing an upload twice returns the same file."""
    writer, project = caller.service.writer, caller.project_id
    upload = await writer.run(lambda c: uploads.get(c, project, upload_id))
    if upload.status != UploadStatus.COMPLETED:
        upload, parts = await writer.run(lambda c: uploads.choose_parts(c, project, upload_id, body.part_ids))
        async with _join_parts(caller, upload, parts, body.md5) as arrived:
            await keep_file(caller, arrived, lambda c, file: uploads.complete(c, upload, file))
    done = await writer.run(lambda c: uploads.get(c, project, upload_id))
    file = await writer.run(lambda c: uploads.find_file(c, done))
    return json_response(UploadObject.from_record(done, file))


@router.post("/{upload_id}/cancel", response_model=UploadObject)
async def cancel_upload(upload_id: str, caller: CurrentCaller) -> Response:
    """Cancel an upload; its parts are deleted."""
    cancelled = await caller.service.writer.run(lambda c: uploads.cancel(c, caller.project_id, upload_id))
    return json_response(UploadObject.from_record(cancelled))


@asynccontextmanager
async def _join_parts(
    caller: Caller, upload: UploadRecord, parts: Sequence[UploadPartRecord], md5: str | None
) -> AsyncIterator[ReceivedFile]:
    """Join the parts into one file, which is deleted at the end of the block unless it has been moved."""
    store, settings = caller.service.store, caller.service.settings
    if store.free_bytes() - upload.bytes < settings.free_space_reserve_bytes:
        raise create_storage_full_error()
    sha256, checksum = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with temporary_file(await asyncio.to_thread(store.open_scratch_folder)) as (file, path):

        def write() -> None:
            for part in parts:
                for piece in store.read(part.key, 0, part.bytes):
                    sha256.update(piece)
                    checksum.update(piece)
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())  # an accepted file must survive a power failure, just as its database row does

        with translate_storage_errors():
            await asyncio.to_thread(write)
        if md5 is not None and checksum.hexdigest() != md5.lower():
            message = f"the parts have the MD5 {checksum.hexdigest()}, not {md5}; list them in the order of the file"
            raise InvalidRequestError(message, param="md5")
        yield ReceivedFile(
            path, upload.filename, upload.purpose, upload.lifetime_seconds, upload.bytes, sha256.hexdigest()
        )
