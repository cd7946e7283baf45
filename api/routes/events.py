"""A job's log: as a list, as server-sent events, and as plain text."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import CurrentCaller, Service
from api.event_stream import WatchedJob, follow_job
from api.responses import json_response
from api.schemas.jobs import EventObject
from api.schemas.pages import Page
from api.schemas.requests import MAX_SEQUENCE, EventQuery, LogQuery
from jobs.records import EventRecord
from jobs.service import jobs
from jobs.service.jobs import JobKey

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

LOG_PAGE_SIZE = 200
EVENT_STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
PLAIN_TEXT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}
LastEventId = Annotated[
    int | None, Header(ge=0, le=MAX_SEQUENCE, description="The event to resume a stream after; overrides ?after=")
]


@router.get("/events", response_model=Page[EventObject], responses=EVENT_STREAM_RESPONSES)
async def list_events(
    request: Request,
    query: Annotated[EventQuery, Query()],
    job_id: str,
    caller: CurrentCaller,
    last_event_id: LastEventId = None,
) -> Response:
    """List the events of a job in the order of their sequence numbers.

    With `Accept: text/event-stream`, the response is a stream of server-sent events that ends when the job ends.
    """
    job = caller.job_key(job_id)
    types = (query.type,) if query.type else ()
    if "text/event-stream" in request.headers.get("Accept", ""):
        await caller.service.quick_reader.call(jobs.find_records, job)
        after = query.after if last_event_id is None else last_event_id
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        watched = WatchedJob(job, types, caller.credentials)
        return StreamingResponse(follow_job(caller.service, watched, after), 200, headers, "text/event-stream")
    found = await caller.service.reader.run(
        lambda c: jobs.list_events(c, job, after=query.after, limit=query.limit + 1, types=types)
    )
    return json_response(Page[EventObject].from_items([EventObject.from_record(event) for event in found], query.limit))


@router.get("/logs", response_class=Response, responses=PLAIN_TEXT_RESPONSES)
async def read_logs(query: Annotated[LogQuery, Query()], job_id: str, caller: CurrentCaller) -> Response:
    """Return the job's output as plain text; pass the X-Last-Sequence header as `after` in the next request."""
    job = caller.job_key(job_id)
    last = (await caller.service.quick_reader.call(jobs.find_records, job)).last_event
    headers = {"X-Last-Sequence": str(max(last, query.after)), "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(
        _read_lines(caller.service, job, query.after, last), 200, headers, "text/plain; charset=utf-8"
    )


async def _read_lines(service: Service, job: JobKey, after: int, last: int) -> AsyncIterator[bytes]:
    while True:
        found = await _read_log_page(service, job, after)
        lines = [str(line) for event in found if event.sequence <= last for line in event.data.get("lines", ())]
        if lines:
            yield ("\n".join(lines) + "\n").encode("utf-8", "replace")
        if len(found) < LOG_PAGE_SIZE or found[-1].sequence >= last:
            return
        after = found[-1].sequence


async def _read_log_page(service: Service, job: JobKey, after: int) -> list[EventRecord]:
    return await service.reader.run(
        lambda c: jobs.list_events(c, job, after=after, limit=LOG_PAGE_SIZE, types=("log",))
    )
