"""Dependencies of the routes: the service behind the API, and the caller's key.

All dependencies are coroutines, because FastAPI runs a plain function in another thread, and every request would pay
for the switch. A route has only one dependency, because FastAPI's bookkeeping for each one costs as much as its query.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from api.chat_tracker import ChatTracker
from api.conditions import parse_if_match
from api.feed_hub import FeedHub
from api.headers import requires_nonexistence
from api.security import SAFE_METHODS, Credentials, identify_key, require_admin, require_same_origin
from api.settings import ApiSettings
from jobs.artifacts import ArtifactStore, open_store
from jobs.database import Database
from jobs.database.batching import CallBatcher
from jobs.errors import VersionConflictError
from jobs.health import WriteProbe
from jobs.records import KeyRecord
from jobs.service import chats, submission
from jobs.service.jobs import JobKey
from jobs.transport import Announcer, Transport, Waker


@dataclass(frozen=True, slots=True)
class Service:
    """The resources that requests may need, opened once per process."""

    settings: ApiSettings
    database: Database
    transport: Transport
    store: ArtifactStore
    reader: CallBatcher
    writer: CallBatcher
    quick_reader: CallBatcher
    slow_reader: CallBatcher
    write_probe: WriteProbe
    hub: FeedHub
    chats: ChatTracker
    closing: threading.Event


@contextmanager
def open_service(settings: ApiSettings) -> Iterator[Service]:
    """Connect to the database, broker and artifact store; one thread writes, one reads, one wakes the dispatcher.

    Another thread authenticates callers and reads single jobs, so that neither has to wait for another caller's list.
    One more thread runs the queries that read many rows: counts, searches and series.
    """
    database = Database(settings.effective_database_url)
    transport = Transport(settings)
    waker = Waker(transport.wake_dispatcher)
    closing = threading.Event()
    announcer = Announcer(transport.announce)
    database.on_news = announcer.add
    reader = CallBatcher("reader", database.reading, read_only=True)
    quick_reader = CallBatcher("quick reader", database.reading, read_only=True)
    slow_reader = CallBatcher("slow reader", database.reading, read_only=True)
    writer = CallBatcher(
        "writer",
        database.writing,
        after_commit=waker.wake,
        quiet=[chats.begin, chats.end],  # a chat needs no dispatcher
        repeatable=[submission.submit],
    )
    store = open_store(settings)
    with suppress(OSError):  # the API also starts with an unwritable store; uploads report the problem
        store.tidy()
    try:
        yield Service(
            settings,
            database,
            transport,
            store,
            reader,
            writer,
            quick_reader,
            slow_reader,
            WriteProbe(database),
            FeedHub(settings, reader, closing),
            ChatTracker(settings, writer),
            closing,
        )
    finally:
        writer.close()
        reader.close()
        quick_reader.close()
        slow_reader.close()
        announcer.close()
        waker.close()
        transport.close()
        database.close()


def get_service(request: Request) -> Service:
    """Return the service that the application's lifespan has opened."""
    service: Service = request.app.state.service
    return service


IfMatch = Annotated[str | None, Header(description="Respond with 412 unless the current ETag is one of these")]


def forbid_if_match(if_match: IfMatch = None) -> None:
    """Reject an If-Match header on a resource that has no ETag, because the client expects a comparison.

    Raises:
        VersionConflictError: the request has an If-Match header other than `*`.
    """
    if parse_if_match(if_match) is not None:
        raise VersionConflictError("this resource has no ETag to compare; remove the If-Match header", param="If-Match")


IfMatchForbidden = Depends(forbid_if_match)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, and the service that handles it."""

    service: Service
    key: KeyRecord
    credentials: Credentials

    @property
    def project_id(self) -> str:
        """The id of the project that the key belongs to."""
        return self.key.project_id

    def job_key(self, job_id: str) -> JobKey:
        """Return the key of a job in the caller's project."""
        return JobKey(self.key.project_id, job_id)


async def get_caller(request: Request) -> Caller:
    """Return the caller, identified by the request's API key; the key's id is kept for the access log."""
    service = get_service(request)
    credentials = Credentials.from_request(request)
    key = await identify_key(service.quick_reader, credentials)
    request.state.key = key
    if request.method not in SAFE_METHODS and requires_nonexistence(request.scope):
        message = "clients cannot choose the URL of a new resource; remove the If-None-Match header"
        raise VersionConflictError(message, param="If-None-Match")
    if credentials.authorization is None and request.method not in SAFE_METHODS:
        require_same_origin(request)
    return Caller(service, key, credentials)


CurrentCaller = Annotated[Caller, Depends(get_caller)]


async def get_administrator(caller: CurrentCaller) -> Caller:
    """Return the caller if the key is an administrator's."""
    require_admin(caller.key)
    return caller


CurrentAdministrator = Annotated[Caller, Depends(get_administrator)]
