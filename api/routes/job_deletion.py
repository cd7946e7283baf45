"""Deletes a single job; bulk operations delete many jobs at once."""

from fastapi import APIRouter, Response

from api.conditions import parse_if_match
from api.dependencies import CurrentCaller, IfMatch
from api.responses import json_response
from api.schemas.resources import Deleted
from jobs.service import deletions

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.delete("/{job_id}", response_model=Deleted)
async def delete_job(job_id: str, caller: CurrentCaller, if_match: IfMatch = None) -> Response:
    """Delete a finished job with its log, artifacts and model; a 409 response lists what still uses that model."""
    job, settings, versions = caller.job_key(job_id), caller.service.settings, parse_if_match(if_match)
    await caller.service.writer.run(lambda c: deletions.delete_job(c, job, settings, versions=versions))
    return json_response(Deleted(id=job_id, object="job"))
