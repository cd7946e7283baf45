"""The async client has the methods of the sync one, and they do the same."""

import asyncio
import inspect
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from baichuan_client import AsyncClient, AsyncJob, Client, Job, JobCancelledError, JobFailedError
from baichuan_client.aio.files import AsyncFiles
from baichuan_client.aio.jobs import AsyncJobs
from baichuan_client.aio.models import AsyncModels
from baichuan_client.files import Files
from baichuan_client.jobs import Jobs
from baichuan_client.models import Models
from tests.baichuan_client.conftest import MODEL, SPEC
from tests.cli.hand_worker import HandWorker

Connect = Callable[[], AsyncClient]
LARGE = bytes(range(256)) * 10_000


@pytest.mark.parametrize(
    ("sync", "mirror"),
    [(Client, AsyncClient), (Job, AsyncJob), (Jobs, AsyncJobs), (Files, AsyncFiles), (Models, AsyncModels)],
)
def test_both_have_the_same_methods_and_parameters(sync: type, mirror: type) -> None:
    def parameters(cls: type) -> dict[str, list[str]]:
        found = inspect.getmembers(cls, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in found if name[0] != "_"}

    assert parameters(mirror) == parameters(sync)


def test_submit_stream_wait_and_download(connect_async: Connect, worker: HandWorker, tmp_path: Path) -> None:
    async def run() -> None:
        async with connect_async() as client:
            job = await client.jobs.submit(SPEC, labels={"a": "1"})
            assert (job.state, job.labels) == ("queued", {"a": "1"})
            waiting = asyncio.create_task((await client.jobs.get(job.id)).wait())
            attempt, states = "", []
            async for event in job.stream(only="state"):
                states.append(event.data["to"])
                if states[-1] == "queued":
                    attempt = worker.begin(job.id)
                elif states[-1] == "running":
                    worker.report(attempt, 0.5, {}, "a line")
                    worker.succeed(job.id, attempt, {"large": LARGE})
            assert states == ["queued", "dispatched", "running", "succeeded"]
            assert (await waiting).state == "succeeded"
            assert await job.logs() == "a line\n"
            assert [artifact.path for artifact in await job.artifacts()] == ["large"]
            steps: list[int] = []
            await job.download("large", tmp_path / "here", progress=lambda done, _: steps.append(done))
            assert steps[-1] == len(LARGE)
            assert (tmp_path / "here").read_bytes() == LARGE
            await job.delete()

    asyncio.run(run())


def test_jobs_that_do_not_succeed(connect_async: Connect, worker: HandWorker) -> None:
    async def run() -> None:
        async with connect_async() as client:
            job = await client.jobs.submit(SPEC)
            with pytest.raises(TimeoutError):
                await job.wait(timeout=0.01)
            worker.fail(worker.begin(job.id), "dataset", "line 3 is not JSON")
            with pytest.raises(JobFailedError) as failed:
                await job.wait()
            assert (failed.value.code, failed.value.message) == ("dataset", "line 3 is not JSON")
            assert (await job.retry()).state == "queued"
            assert (await job.cancel()).state == "cancelled"
            with pytest.raises(JobCancelledError):
                await job.wait()

    asyncio.run(run())


def test_files_models_and_lists(connect_async: Connect, data_file: Path, tmp_path: Path) -> None:
    content = data_file.read_bytes()

    async def run() -> None:
        async with connect_async() as client:
            steps: list[int] = []
            file = await client.files.upload(data_file, "fine-tune", progress=lambda done, _: steps.append(done))
            assert steps[-1] == file.bytes == len(content)
            assert await client.files.get(file.id) == file
            assert file in [found async for found in client.files.list(purpose="fine-tune")]
            await client.files.download(file.id, tmp_path / "copy")
            job = await client.jobs.submit({"kind": "finetune", "model": MODEL, "training_file": file.id})
            assert [(await job.pause()).state, (await job.resume()).state] == ["paused", "queued"]
            await job.cancel()
            await client.files.delete(file.id)

            assert MODEL in [model.id async for model in client.models.list()]
            path = (await client.models.get(MODEL)).path
            assert path is not None
            name = f"copy-{uuid.uuid4().hex[:8]}"
            assert (await client.models.register(name, path)).path == path
            await client.models.delete(name)
            assert (await client.request("GET", "/v1/workers"))["object"] == "list"
            label = uuid.uuid4().hex
            for _ in range(2):
                await client.jobs.submit(SPEC, labels={"set": label})
            assert len([job async for job in client.jobs.list(label=f"set:{label}")]) == 2

    asyncio.run(run())
    assert (tmp_path / "copy").read_bytes() == content
