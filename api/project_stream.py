"""Streams a project's changes as server-sent events; a client resumes with the id of the last event it received."""

import json
import time
from collections.abc import AsyncIterator

from api.dependencies import Caller
from api.event_stream import are_credentials_valid
from api.schemas.feed import FeedEvent
from jobs.records import FeedRecord
from jobs.service import feed
from jobs.service.feed import FeedCursor

PAGE_SIZE = 200
RETRY_FIELD = b"retry: 1000\n"  # milliseconds after which a browser reconnects


async def follow_project(caller: Caller, after: int | None) -> AsyncIterator[bytes]:
    """Yield the events after the position `after` until the key or session becomes invalid or the server stops.

    The first event of a new stream is `ready`: everything that the client reads after it is kept up to date by the
    events that follow. A `reset` event means that events were missed and that the client must read everything again.
    """
    service, position, checked = caller.service, after, time.monotonic()
    idle_seconds = service.settings.stream_idle_seconds
    with service.hub.watch(caller.project_id) as project:
        while not service.closing.is_set():
            part = await service.reader.call(feed.read_slices, FeedCursor(caller.project_id, position, PAGE_SIZE))
            if position is None:
                yield RETRY_FIELD + _render_marker("ready", part.position)
            elif part.reset:
                yield _render_marker("reset", part.position)
            elif part.entries:
                yield b"".join(map(_render, part.entries))
            position = part.position
            if not part.entries:
                await project.wait(position, idle_seconds)
            if time.monotonic() - checked > idle_seconds:
                checked = time.monotonic()
                if not await are_credentials_valid(service, caller.credentials):
                    return
                yield b": still here\n\n"


def _render_marker(kind: str, position: int) -> bytes:
    return f"id: {position}\nevent: {kind}\ndata: {json.dumps({'position': position})}\n\n".encode()


def _render(entry: FeedRecord) -> bytes:
    event = FeedEvent.from_record(entry)
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()
