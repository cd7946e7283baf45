"""Callers do not wait for each other's reads."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.database.batching import CallBatcher
from tests.api.conftest import Api


@contextmanager
def occupied(batcher: CallBatcher) -> Iterator[None]:
    """A batcher whose thread is busy until the end of the block."""
    began, released = threading.Event(), threading.Event()

    def occupy(_connection: object) -> None:
        began.set()
        released.wait(30)

    thread = threading.Thread(target=lambda: asyncio.run(batcher.run(occupy)))
    thread.start()
    try:
        assert began.wait(10)
        yield
    finally:
        released.set()
        thread.join()


def test_authentication_does_not_wait_for_a_list(api: Api) -> None:
    api.register_model()
    with occupied(api.app.state.service.reader):
        assert api.submit()["state"] == "queued"
        assert api.client.get("/v1/jobs/x", headers={"Authorization": "Bearer unknown"}).status_code == 401
