"""Streams a job's log as server-sent events.

Watchers do not add queries of their own: one query looks up the jobs of all watchers, and events are read only for jobs
that have new ones. Nothing is skipped: events that a slow client has not received yet remain in SQL.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from api.dependencies import Service
from api.schemas.jobs import EventObject
from api.security import Credentials, identify_key
from jobs.errors import AuthenticationError, NotFoundError
from jobs.service import jobs
from jobs.service.jobs import JobKey

PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class WatchedJob:
    """The job that a client is watching, the event types that the client wants, and the client's credentials."""

    job: JobKey
    types: Sequence[str]
    credentials: Credentials


async def follow_job(service: Service, watched: WatchedJob, after: int) -> AsyncIterator[bytes]:
    """Yield events after the sequence number `after` until the job ends, the key is revoked or the server stops."""
    settings, job, types = service.settings, watched.job, watched.types
    spoke = checked = time.monotonic()
    while not service.closing.is_set():
        if time.monotonic() - checked > settings.stream_idle_seconds:
            checked = time.monotonic()
            if not await are_credentials_valid(service, watched.credentials):
                return
        try:
            record = await service.quick_reader.call(jobs.find_records, job)
        except NotFoundError:
            return
        while after < record.last_event:
            text, after = await _read_page(service, job, after, types, record.last_event)
            if text:
                spoke = time.monotonic()
                yield text
        if record.state.is_final:
            return
        if time.monotonic() - spoke > settings.stream_idle_seconds:
            spoke = time.monotonic()
            yield b": still here\n\n"
        await asyncio.sleep(settings.stream_poll_seconds)


async def are_credentials_valid(service: Service, credentials: Credentials) -> bool:
    """Whether a client's key or session is still valid."""
    try:
        await identify_key(service.quick_reader, credentials)
    except AuthenticationError:
        return False
    return True


async def _read_page(service: Service, job: JobKey, after: int, types: Sequence[str], last: int) -> tuple[bytes, int]:
    """Return the next events, encoded for the stream, and the sequence number after which to continue."""
    found = await service.reader.run(lambda c: jobs.list_events(c, job, after=after, limit=PAGE_SIZE, types=types))
    text = b"".join(_render(EventObject.from_record(event)) for event in found)
    return text, found[-1].sequence if len(found) == PAGE_SIZE else max(last, found[-1].sequence if found else 0)


def _render(event: EventObject) -> bytes:
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()
