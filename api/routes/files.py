"""/v1/files: training data and prompts."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import Caller, Service, ServiceDependency
from api.responses import ANY_BYTES, file_response, json_response
from api.schemas.pages import Page
from api.schemas.requests import FileQuery
from api.schemas.resources import Deleted, FileObject
from api.uploads import PURPOSES, Arrived, received
from jobs.records import FileRecord, KeyRecord
from jobs.service import files

router = APIRouter(prefix="/v1/files", tags=["files"])

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                    },
                }
            }
        },
    }
}


@router.post("", response_model=FileObject, openapi_extra=FORM)
async def upload(request: Request, caller: Caller, service: ServiceDependency) -> Response:
    """Upload a file. It is streamed to the disk and becomes visible when all of it is there."""
    async with received(request, service.store, service.settings) as arrived:
        stored = await asyncio.shield(_keep(service, caller, arrived))
    return json_response(FileObject.of(stored))


@router.get("", response_model=Page[FileObject])
async def list_files(query: Annotated[FileQuery, Query()], caller: Caller, service: ServiceDependency) -> Response:
    """Files of the project, newest first."""
    found = await service.reader.run(
        lambda c: files.page(c, caller.project_id, purpose=query.purpose, after=query.after, limit=query.limit + 1)
    )
    return json_response(Page[FileObject].of([FileObject.of(file) for file in found], query.limit))


@router.get("/{file_id}", response_model=FileObject)
async def get_file(file_id: str, caller: Caller, service: ServiceDependency) -> Response:
    """One file."""
    found = await service.reader.run(lambda c: files.get(c, caller.project_id, file_id))
    return json_response(FileObject.of(found))


@router.head("/{file_id}/content", include_in_schema=False)
@router.get("/{file_id}/content", response_class=Response, responses=ANY_BYTES)
async def download(file_id: str, request: Request, caller: Caller, service: ServiceDependency) -> Response:
    """The bytes of a file, or a range of them; their SHA-256 is the ETag."""
    found = await service.reader.run(lambda c: files.get(c, caller.project_id, file_id))
    return await file_response(
        request, service.store, key=found.key, size=found.bytes, sha256=found.sha256, name=found.filename
    )


@router.delete("/{file_id}", response_model=Deleted)
async def delete(file_id: str, caller: Caller, service: ServiceDependency) -> Response:
    """Delete a file; jobs that name it and have not started will fail."""
    found = await service.writer.run(lambda c: files.delete(c, caller.project_id, file_id))
    await asyncio.to_thread(service.store.delete, found.key)
    return json_response(Deleted(id=file_id, object="file"))


async def _keep(service: Service, caller: KeyRecord, arrived: Arrived) -> FileRecord:
    """Bytes first, then the row: a file without its bytes is never visible."""
    record = files.new_file(caller.project_id, arrived.filename, arrived.purpose, arrived.bytes, arrived.sha256)
    try:
        await asyncio.to_thread(service.store.put, arrived.path, record.key)
        return await service.writer.run(lambda c: files.add(c, record))
    except Exception:
        await asyncio.to_thread(service.store.delete, record.key)
        raise
