"""/v1/workers: the workers that run jobs."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import CurrentAdministrator, CurrentCaller, IfMatchForbidden
from api.responses import json_response
from api.schemas.pages import Page
from api.schemas.requests import DrainRequest, PageQuery
from api.schemas.resources import WorkerObject
from jobs.service import workers

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("", response_model=Page[WorkerObject])
async def list_workers(query: Annotated[PageQuery, Query()], caller: CurrentCaller) -> Response:
    """List the workers that reported within the last few heartbeat intervals."""
    settings = caller.service.settings
    found = await caller.service.reader.run(lambda c: workers.list_alive_after(c, settings, query.after))
    return json_response(
        Page[WorkerObject].from_items([WorkerObject.from_record(worker, caller.key) for worker in found], query.limit)
    )


@router.post("/{worker_id}/drain", response_model=WorkerObject, dependencies=[IfMatchForbidden])
async def drain(worker_id: str, caller: CurrentAdministrator, request: DrainRequest | None = None) -> Response:
    """Stop assigning jobs to a worker.

    Jobs that are still running at the deadline are queued again, and the interrupted attempt does not count. Without a
    deadline, they run to completion.
    """
    seconds, settings = (request or DrainRequest()).deadline_seconds, caller.service.settings
    drained = await caller.service.writer.run(lambda c: workers.drain(c, worker_id, seconds, settings))
    return json_response(WorkerObject.from_record(drained, caller.key))


@router.post("/{worker_id}/undrain", response_model=WorkerObject, dependencies=[IfMatchForbidden])
async def undrain(worker_id: str, caller: CurrentAdministrator) -> Response:
    """Allow a drained worker to take jobs again."""
    settings = caller.service.settings
    active = await caller.service.writer.run(lambda c: workers.undrain(c, worker_id, settings))
    return json_response(WorkerObject.from_record(active, caller.key))
