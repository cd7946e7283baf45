"""The files that a job has published."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.conditions import parse_if_match
from api.dependencies import CurrentCaller, IfMatch
from api.responses import FILE_RESPONSES, file_response, json_response
from api.schemas.jobs import ArtifactObject
from api.schemas.pages import Page
from api.schemas.requests import PageQuery
from api.schemas.resources import Deleted
from jobs.service import deletions, jobs

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["artifacts"])


@router.get("", response_model=Page[ArtifactObject])
async def list_artifacts(query: Annotated[PageQuery, Query()], job_id: str, caller: CurrentCaller) -> Response:
    """List the published files of a job."""
    found = await caller.service.reader.run(
        lambda c: jobs.list_artifacts(c, caller.job_key(job_id), after=query.after, limit=query.limit + 1)
    )
    return json_response(
        Page[ArtifactObject].from_items([ArtifactObject.from_record(artifact) for artifact in found], query.limit)
    )


@router.get("/{path:path}", response_class=Response, responses=FILE_RESPONSES)
async def download(path: str, request: Request, job_id: str, caller: CurrentCaller) -> Response:
    """Download a file or a range of it; the ETag is the SHA-256 of the whole file."""
    found = await caller.service.reader.run(lambda c: jobs.get_artifact(c, caller.job_key(job_id), path))
    return await file_response(
        request, caller.service.store, key=found.key, size=found.bytes, sha256=found.sha256, name=found.path
    )


@router.delete("/{path:path}", response_model=Deleted)
async def delete(path: str, job_id: str, caller: CurrentCaller, if_match: IfMatch = None) -> Response:
    """Delete a file; the response is 409 if it is part of a model, which can only be deleted as a whole."""
    job, hashes = caller.job_key(job_id), parse_if_match(if_match)
    found = await caller.service.writer.run(lambda c: deletions.delete_artifact(c, job, path, hashes=hashes))
    return json_response(Deleted(id=found.id, object="job.artifact"))
