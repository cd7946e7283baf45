"""/v1/bulk-operations: operations that cancel, retry or delete all jobs that match a filter."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import CurrentCaller
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.schemas.bulk import BulkOperation, BulkPreview
from api.schemas.jobs import JobSummary
from api.schemas.pages import Page
from api.schemas.requests import BulkRequest, PageQuery
from jobs.service import bulk

router = APIRouter(prefix="/v1/bulk-operations", tags=["bulk operations"], route_class=JsonRoute)


@router.post("/preview", response_model=BulkPreview)
async def preview(request: BulkRequest, caller: CurrentCaller) -> Response:
    """Show which jobs an operation would affect; nothing is changed."""
    wanted = request.filter.to_filter()
    found = await caller.service.slow_reader.run(lambda c: bulk.preview(c, caller.project_id, request.action, wanted))
    first = [JobSummary.from_record(job, caller.key) for job in found.first]
    return json_response(BulkPreview(action=request.action, matched=found.matched, in_use=found.in_use, first=first))


@router.post("", status_code=202, response_model=BulkOperation)
async def start(request: BulkRequest, caller: CurrentCaller) -> Response:
    """Cancel, retry or delete all matching jobs submitted before this request, in the background.

    A running job is cancelled through its worker. A job whose model is in use is not deleted and counts as failed.
    """
    wanted, sent = request.filter.to_filter(), request.filter.model_dump(exclude_none=True)
    project_id, action = caller.project_id, request.action
    matched = await caller.service.slow_reader.run(lambda c: bulk.count(c, project_id, action, wanted))
    made = await caller.service.writer.run(
        lambda c: bulk.record_operation(c, project_id, action, wanted, sent, matched)
    )
    return json_response(BulkOperation.from_record(made), 202, {"Location": f"/v1/bulk-operations/{made.id}"})


@router.get("", response_model=Page[BulkOperation])
async def list_operations(query: Annotated[PageQuery, Query()], caller: CurrentCaller) -> Response:
    """List the operations of the project, newest first."""
    found = await caller.service.reader.run(
        lambda c: bulk.list_page(c, caller.project_id, after=query.after, limit=query.limit + 1)
    )
    return json_response(
        Page[BulkOperation].from_items([BulkOperation.from_record(each) for each in found], query.limit)
    )


@router.get("/{operation_id}", response_model=BulkOperation)
async def get_operation(operation_id: str, caller: CurrentCaller) -> Response:
    """Return one operation with its progress."""
    found = await caller.service.reader.run(lambda c: bulk.get(c, caller.project_id, operation_id))
    return json_response(BulkOperation.from_record(found))
