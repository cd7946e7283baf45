"""/v1/files: training data and prompts; the artifacts of jobs can also be read here by id."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.conditions import parse_if_match
from api.dependencies import CurrentCaller, IfMatch
from api.file_form import OPENAPI_REQUEST_BODY
from api.file_keeping import keep_file, make_idempotent_adder
from api.json_bodies import OpenAIRoute
from api.lost_answers import read_retry_history
from api.responses import FILE_RESPONSES, file_response, json_response
from api.schemas.pages import Page
from api.schemas.purposes import list_equivalent_purposes
from api.schemas.requests import FileQuery
from api.schemas.resources import Deleted, FileObject
from api.uploads import receive_file
from jobs.records import FileFilter
from jobs.service import deletions, files

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=OpenAIRoute)


@router.post("", response_model=FileObject, openapi_extra=OPENAPI_REQUEST_BODY)
async def upload(request: Request, caller: CurrentCaller) -> Response:
    """Upload a file. It is streamed to disk and becomes visible once it is complete.

    The content is checked according to its purpose: a file that cannot be used has the status `error`, and
    `status_details` says where and why.
    """
    tries = read_retry_history(request)
    async with receive_file(request, caller.service.store, caller.service.settings) as arrived:
        stored = await keep_file(caller, arrived, make_idempotent_adder(tries, arrived.lifetime_seconds))
    return json_response(FileObject.from_record(stored))


@router.get("", response_model=Page[FileObject])
async def list_files(query: Annotated[FileQuery, Query()], caller: CurrentCaller) -> Response:
    """List the files of the project, newest first unless `order` is asc."""
    purposes = list_equivalent_purposes(query.purpose) if query.purpose else None
    wanted = FileFilter(purposes, oldest_first=query.order == "asc")
    found = await caller.service.reader.run(
        lambda c: files.list_page(c, caller.project_id, wanted, after=query.after, limit=query.limit + 1)
    )
    return json_response(Page[FileObject].from_items([FileObject.from_record(file) for file in found], query.limit))


@router.get("/{file_id}", response_model=FileObject)
async def get_file(file_id: str, caller: CurrentCaller) -> Response:
    """Return one file."""
    found = await caller.service.reader.run(lambda c: files.get(c, caller.project_id, file_id))
    return json_response(FileObject.from_record(found))


@router.get("/{file_id}/content", response_class=Response, responses=FILE_RESPONSES)
async def download(file_id: str, request: Request, caller: CurrentCaller) -> Response:
    """Download a file or a range of it; the ETag is the SHA-256 of the whole file."""
    found = await caller.service.reader.run(lambda c: files.get(c, caller.project_id, file_id))
    return await file_response(
        request, caller.service.store, key=found.key, size=found.bytes, sha256=found.sha256, name=found.filename
    )


@router.delete("/{file_id}", response_model=Deleted)
async def delete(file_id: str, caller: CurrentCaller, if_match: IfMatch = None) -> Response:
    """Delete a file; a 409 response lists the unfinished jobs that use it."""
    hashes = parse_if_match(if_match)
    await caller.service.writer.run(lambda c: deletions.delete_file(c, caller.project_id, file_id, hashes=hashes))
    return json_response(Deleted(id=file_id, object="file"))
