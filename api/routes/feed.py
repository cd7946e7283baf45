"""/v1/events: all changes in a project, in one stream that a client can resume."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import FromCaller
from api.project_stream import follow_project
from api.responses import json_response
from api.schemas.feed import FeedEvent, FeedPage
from api.schemas.requests import MAX_POSITION, FeedQuery
from jobs.service import feed
from jobs.service.feed import FeedCursor

router = APIRouter(prefix="/v1/events", tags=["events"])

STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {"type": "string", "description": "Each event's data is an object of `FeedEvent`"}
            }
        }
    }
}
LastEventId = Annotated[
    int | None, Header(ge=0, le=MAX_POSITION, description="Where a stream resumes; goes before ?after=")
]


@router.get("", response_model=FeedPage, responses=STREAM_RESPONSES)
async def follow_events(
    request: Request, query: Annotated[FeedQuery, Query()], caller: FromCaller, last_event_id: LastEventId = None
) -> Response:
    """Follow all changes in the project.

    With `Accept: text/event-stream` they come as server-sent events. The first is `ready`, with the position from which
    the stream goes on, unless the request says where to resume. `reset` says that events behind that place are no
    longer kept, or that it is of another database: read again what is shown. Otherwise the answer is what there is now.
    """
    after = query.after if last_event_id is None else last_event_id
    if "text/event-stream" in request.headers.get("Accept", ""):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(follow_project(caller, after), 200, headers, "text/event-stream")
    place = FeedCursor(caller.project_id, after, query.limit)
    part = await caller.service.reader.call(feed.read_parts, place)
    page = FeedPage(data=[FeedEvent.of(each) for each in part.entries], position=part.position, reset=part.reset)
    return json_response(page)
