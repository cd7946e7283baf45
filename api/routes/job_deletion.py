"""Deleting a job. Many at once are deleted by a bulk operation."""

from fastapi import APIRouter, Response

from api.dependencies import FromCaller
from api.responses import json_response
from api.schemas.resources import Deleted
from jobs.service import deletions

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.delete("/{job_id}", response_model=Deleted)
async def delete_job(job_id: str, caller: FromCaller) -> Response:
    """Delete a final job with its log, artifacts and model; 409 names who uses the model."""
    settings = caller.service.settings
    await caller.service.writer.run(lambda c: deletions.delete_job(c, caller.job(job_id), settings))
    return json_response(Deleted(id=job_id, object="job"))
