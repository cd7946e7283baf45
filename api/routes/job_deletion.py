"""Deleting jobs: one, or many by a filter."""

from fastapi import APIRouter, Response

from api.conditions import expected_tags
from api.dependencies import FromCaller, IfMatch
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.schemas.requests import JobSelectionRequest
from api.schemas.resources import BulkDeletionObject, Deleted
from jobs.records import JobFilter
from jobs.service import deletions
from jobs.service.deletions import JobSelection

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)


@router.post("/delete", status_code=202, response_model=BulkDeletionObject)
async def delete_jobs(selection: JobSelectionRequest, caller: FromCaller) -> Response:
    """Delete all final jobs that match, with all that they made; models in use are kept with their jobs."""
    key, _, value = (selection.label or "").partition(":")
    wanted = JobFilter(selection.state, selection.kind, (key, value) if selection.label else None)
    chosen = JobSelection(wanted, None if selection.before is None else selection.before * 1000)
    counted = await caller.service.writer.run(
        lambda c: deletions.delete_jobs(c, chosen, caller.project_id, dry_run=selection.dry_run)
    )
    answer = BulkDeletionObject(
        dry_run=selection.dry_run, matched=counted.matched, deleted=counted.deleted, in_use=counted.in_use
    )
    return json_response(answer, 202)


@router.delete("/{job_id}", response_model=Deleted)
async def delete_job(job_id: str, caller: FromCaller, if_match: IfMatch = None) -> Response:
    """Delete a final job with its log, artifacts and model; 409 names who uses the model."""
    job, settings, versions = caller.job(job_id), caller.service.settings, expected_tags(if_match)
    await caller.service.writer.run(lambda c: deletions.delete_job(c, job, settings, versions=versions))
    return json_response(Deleted(id=job_id, object="job"))
