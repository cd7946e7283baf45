"""/v1/workers: who is there to run jobs."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import FromCaller
from api.responses import json_response
from api.schemas.pages import Page
from api.schemas.requests import PageQuery
from api.schemas.resources import WorkerObject
from jobs.service import workers

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("", response_model=Page[WorkerObject])
async def list_workers(query: Annotated[PageQuery, Query()], caller: FromCaller) -> Response:
    """Workers that reported within the last few heartbeats."""
    settings = caller.service.settings
    found = await caller.service.reader.run(lambda c: workers.alive_after(c, settings, query.after))
    return json_response(Page[WorkerObject].of([WorkerObject.of(worker) for worker in found], query.limit))
