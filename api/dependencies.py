"""What routes are given: the service behind the API, and the key of the caller.

All are coroutines: a plain function would cost a hop to a thread and back in every request.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api.security import authenticate, require_admin
from api.settings import ApiSettings
from jobs.artifacts import ArtifactStore, open_store
from jobs.batching import Lane
from jobs.database import Database
from jobs.records import KeyRecord
from jobs.service.jobs import JobKey
from jobs.transport import Transport, Waker


@dataclass(frozen=True, slots=True)
class Service:
    """Everything a request may need, opened once a process."""

    settings: ApiSettings
    database: Database
    transport: Transport
    store: ArtifactStore
    reader: Lane
    writer: Lane
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def open_service(settings: ApiSettings) -> Iterator[Service]:
    """Connect to database, broker and artifact store; one thread writes, one reads, one wakes the dispatcher."""
    database = Database(settings.database)
    transport = Transport(settings)
    waker = Waker(transport.wake_dispatcher)
    reader = Lane("reader", database.reading)
    writer = Lane("writer", database.writing, after_commit=waker.wake)
    try:
        yield Service(settings, database, transport, open_store(settings), reader, writer)
    finally:
        writer.close()
        reader.close()
        waker.close()
        transport.close()
        database.close()


async def get_service(request: Request) -> Service:
    """The service, which the application's lifespan has opened."""
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(get_service)]


async def get_caller(request: Request, service: ServiceDependency) -> KeyRecord:
    """The key that the request carries; the access log names it too."""
    key = await authenticate(service.reader, request.headers.get("Authorization"))
    request.state.key = key
    return key


Caller = Annotated[KeyRecord, Depends(get_caller)]


async def get_admin(caller: Caller) -> KeyRecord:
    """The key that the request carries, if it is an administrator's."""
    return require_admin(caller)


Administrator = Annotated[KeyRecord, Depends(get_admin)]


async def get_job_key(job_id: str, caller: Caller) -> JobKey:
    """The job that the address names, in the caller's project."""
    return JobKey(caller.project_id, job_id)


NamedJob = Annotated[JobKey, Depends(get_job_key)]
