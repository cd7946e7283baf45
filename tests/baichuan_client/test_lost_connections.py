"""What the client does when connections break."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from baichuan_client import AsyncClient, Client, Job, UnreachableError
from tests.baichuan_client.conftest import MODEL, SPEC
from tests.baichuan_client.flaky_proxy import FlakyProxy
from tests.cli.hand_worker import HandWorker

LARGE = bytes(range(256)) * 20_000


def test_a_lost_answer_makes_no_second_job(client: Client, proxy: FlakyProxy) -> None:
    label = {"lost": uuid.uuid4().hex}
    proxy.cut_next("POST /v1/jobs")
    with Client(proxy.url) as through:
        job = through.jobs.submit(SPEC, labels=label)
    assert proxy.dropped == 1
    assert [found.id for found in client.jobs.list(label=f"lost:{label['lost']}")] == [job.id]


def test_a_request_that_must_not_be_repeated_is_not(client: Client, proxy: FlakyProxy) -> None:
    proxy.cut_next("DELETE /v1/models")
    with Client(proxy.url) as through, pytest.raises(UnreachableError, match=f"no response from {proxy.url}"):
        through.models.delete("no-such-model")
    assert client.models.get(MODEL).id == MODEL


def test_a_stream_continues_after_the_last_event(client: Client, proxy: FlakyProxy, worker: HandWorker) -> None:
    job = client.jobs.submit(SPEC)
    attempt = worker.begin(job.id)
    for number in range(20):
        worker.report(attempt, number / 20, {}, f"line {number}")
    worker.succeed(job.id, attempt, {})
    expected = list(job.stream())
    assert len(expected) > 20
    for answer_bytes in (700, 1_500, 3_000):  # within an event
        proxy.cut_next(f"GET /v1/jobs/{job.id}/events", answer_bytes)
    with Client(proxy.url) as through:
        assert list(through.jobs.get(job.id).stream()) == expected
    assert proxy.dropped == 3


def test_a_download_continues(proxy: FlakyProxy, finish: Callable[[Mapping[str, bytes]], Job], tmp_path: Path) -> None:
    job = finish({"large": LARGE})
    for _ in range(4):
        proxy.cut_next(f"GET /v1/jobs/{job.id}/artifacts/large", 2_000_000)
    with Client(proxy.url) as through:
        through.jobs.get(job.id).download("large", tmp_path)
    assert (tmp_path / "large").read_bytes() == LARGE
    assert proxy.dropped >= 2


def test_the_async_client_does_the_same(
    client: Client, proxy: FlakyProxy, finish: Callable[[Mapping[str, bytes]], Job], tmp_path: Path
) -> None:
    done = finish({"large": LARGE})
    events = list(done.stream())
    label = {"lost": uuid.uuid4().hex}
    proxy.cut_next("POST /v1/jobs")
    proxy.cut_next(f"GET /v1/jobs/{done.id}/events", 700)
    proxy.cut_next(f"GET /v1/jobs/{done.id}/artifacts/large", 2_000_000)

    async def run() -> str:
        async with AsyncClient(proxy.url) as through:
            made = await through.jobs.submit(SPEC, labels=label)
            job = await through.jobs.get(done.id)
            assert [event async for event in job.stream()] == events
            await job.download("large", tmp_path)
            return made.id

    made = asyncio.run(run())
    assert [found.id for found in client.jobs.list(label=f"lost:{label['lost']}")] == [made]
    assert (tmp_path / "large").read_bytes() == LARGE
    assert proxy.dropped == 3
