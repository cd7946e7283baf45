"""/v1/jobs/{job_id}/resume-points: states from which a fine-tuning job can continue; each can become a model."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Response

from api.dependencies import CurrentCaller
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.schemas.pages import Page
from api.schemas.requests import PageQuery, PublishRequest
from api.schemas.resources import ModelObject
from api.schemas.resume_points import ResumePointObject
from jobs.artifacts.resume_points import list_complete_resume_points
from jobs.errors import UnknownCursorError
from jobs.service import resume_points

router = APIRouter(prefix="/v1/jobs/{job_id}/resume-points", tags=["resume points"], route_class=JsonRoute)

MAX_STEP = 10**12


@router.get("", response_model=Page[ResumePointObject])
async def list_resume_points(query: Annotated[PageQuery, Query()], job_id: str, caller: CurrentCaller) -> Response:
    """List a job's resume points by step; they exist while it runs, and after it has failed or been cancelled."""
    key, store = caller.job_key(job_id), caller.service.store
    attempts = await caller.service.reader.run(lambda c: resume_points.list_attempts_with_points(c, key))
    found = [
        ResumePointObject.from_point(point)
        for point in await asyncio.to_thread(list_complete_resume_points, store, key.job_id, attempts)
    ]
    ids = [point.id for point in found]
    if query.after and query.after not in ids:
        raise UnknownCursorError(query.after)
    behind = found[ids.index(query.after) + 1 :] if query.after else found
    return json_response(Page[ResumePointObject].from_items(behind, query.limit))


@router.post("/{step}/publish", status_code=201, response_model=ModelObject)
async def publish(
    job_id: str,
    step: Annotated[int, Path(ge=1, le=MAX_STEP)],
    caller: CurrentCaller,
    wanted: Annotated[PublishRequest | None, Body()] = None,
) -> Response:
    """Turn the resume point of this step into a model: an adapter, or all weights in float32.

    The model is a copy: it remains when the job continues, is retried, or deletes its resume points.
    """
    key, store, writer = caller.job_key(job_id), caller.service.store, caller.service.writer
    attempts = await caller.service.reader.run(lambda c: resume_points.list_attempts_with_points(c, key))
    found = await asyncio.to_thread(resume_points.find_resume_point, store, key.job_id, attempts, step)
    name = wanted.id if wanted else None
    publication = await writer.run(lambda c: resume_points.begin_publication(c, key, name, found))
    try:
        await asyncio.to_thread(resume_points.copy_files, store, publication)
        made = await writer.run(lambda c: resume_points.publish(c, key, publication))
    except Exception:
        await writer.run(lambda c: resume_points.discard_publication(c, key, publication))
        raise
    return json_response(ModelObject.from_record(made, caller.key), 201, {"Location": f"/v1/models/{made.id}"})
