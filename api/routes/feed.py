"""/v1/events: all changes in a project, as one stream that a client can resume."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import CurrentCaller
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
                "schema": {"type": "string", "description": "The data of each event is a `FeedEvent` object"}
            }
        }
    }
}
LastEventId = Annotated[
    int | None, Header(ge=0, le=MAX_POSITION, description="The event to resume a stream after; overrides ?after=")
]


@router.get("", response_model=FeedPage, responses=STREAM_RESPONSES)
async def follow_events(
    request: Request, query: Annotated[FeedQuery, Query()], caller: CurrentCaller, last_event_id: LastEventId = None
) -> Response:
    """Follow all changes in the project.

    With `Accept: text/event-stream`, the response is a stream of server-sent events. Unless the request names an event
    to resume after, the first one is `ready`, with the position at which the stream begins. A `reset` event means that
    the events after the requested position are no longer kept, or that the position is from another database: read
    everything again. Without that header, the response is a list of the events that exist now.
    """
    after = query.after if last_event_id is None else last_event_id
    if "text/event-stream" in request.headers.get("Accept", ""):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(follow_project(caller, after), 200, headers, "text/event-stream")
    place = FeedCursor(caller.project_id, after, query.limit)
    part = await caller.service.reader.call(feed.read_slices, place)
    page = FeedPage(
        data=[FeedEvent.from_record(each) for each in part.entries], position=part.position, reset=part.reset
    )
    return json_response(page)
