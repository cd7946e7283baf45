"""Compare a queue of the largest allowed specs with a queue of small ones; see benchmarks/README.md.

Usage: python -m benchmarks.light_rows [--jobs 10000] [--repeats 30] [--databases URL URL]

By default each queue has its own SQLite database in a temporary directory; `--databases` names two empty PostgreSQL
databases instead. Requests go through the whole API, within this process. No worker has room, so all jobs wait.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import httpx

from api.main import create_app
from api.security import authenticate
from api.settings import ApiSettings
from api.uploads import store_bytes
from footprint import Precision
from jobs.artifacts import input_key, open_store
from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.dispatcher import Dispatcher
from jobs.records import ModelRecord, WorkerRecord
from jobs.repository import models
from jobs.service import keys, workers
from jobs.service.submission import Submission, SubmittedJob, submit
from jobs.specs import KINDS, GenerateSpec, StoredGenerateSpec, split_off_input

MAX_RATIO = 1.5
BATCH = 500
PAGE = 100
DETAILS = {
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 125_696,
    "max_position_embeddings": 4096,
    "position_embedding": "rope",
    "norm_head": True,
    "precision": asdict(Precision()),
}
SMALL_CPU = {"type": "cpu", "index": 0, "uuid": "cpu-0", "name": "CPU", "memory_bytes": 2**30}
SMALL = GenerateSpec(kind="generate", model="m", prompts=["你好"])
Operations = dict[str, Callable[[], Awaitable[None]]]


def largest_spec() -> GenerateSpec:
    """Return a spec whose JSON is about as large as a body may be, almost all of it prompts.

    It has no labels: lists show them and placement compares them, so both take longer with many of them.
    """
    limit = ApiSettings.model_fields["max_body_bytes"].default
    count = (limit - 10_000) // 200_004
    fields = {"kind": "generate", "model": "m", "prompts": ["x" * 200_000] * count, "stop": ["停" * 64] * 8}
    return GenerateSpec.model_validate(fields)


def fill_queue(settings: ApiSettings, spec: GenerateSpec, jobs: int) -> tuple[str, list[str]]:
    """Queue jobs whose rows are those that the API writes; return an API key and the ids.

    The rows of large specs share one separated input. Its file is written only for the last job, because no measured
    operation reads it and the files of 10,000 jobs would take 160 GB.
    """
    prepare_deployment(settings)
    database, secret = Database(settings.effective_database_url), keys.new_secret()
    separated = split_off_input(spec) if spec is not SMALL else None
    row_spec: GenerateSpec = separated.spec if separated else StoredGenerateSpec(**SMALL.model_dump())
    with database.writing() as connection:
        key = keys.create(connection, project="benchmark", name="benchmark", role="member", secret=secret)
        record = ModelRecord(key.project_id, "m", "checkpoint", "ready", None, None, "/m", None, DETAILS, 1)
        models.add(connection, record)
    ids: list[str] = []
    while len(ids) < jobs:
        batch = [Submission(key.project_id, row_spec) for _ in range(min(BATCH, jobs - len(ids)))]
        with database.writing() as connection:
            ids += [answer.job.id for answer in submit(connection, batch) if isinstance(answer, SubmittedJob)]
    if separated:
        store_bytes(open_store(settings), settings, input_key(ids[-1]), separated.content)
    with database.writing() as connection:
        workers.record_heartbeat(connection, WorkerRecord("w", "host", 1, "active", list(KINDS), 1, [SMALL_CPU], 1, 1))
    database.close()
    return secret, ids


@asynccontextmanager
async def open_queue(settings: ApiSettings, secret: str, ids: Sequence[str]) -> AsyncIterator[Operations]:
    """Yield the operations to measure: lists, polls, rounds of placement, and authentication during lists."""
    app, header = create_app(settings), f"Bearer {secret}"
    dispatcher = Dispatcher(settings)
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api", headers={"Authorization": header}
    )

    async def read_list() -> None:
        (await client.get("/v1/jobs", params={"limit": PAGE})).raise_for_status()

    async def poll() -> None:
        for job_id in ids[:: max(1, len(ids) // PAGE)]:
            (await client.get(f"/v1/jobs/{job_id}")).raise_for_status()

    async def place() -> None:
        if dispatcher.dispatch_waiting():
            raise SystemExit("a job was sent to a worker, but all jobs should wait")

    async def authenticate_during_lists() -> None:
        lists = [asyncio.create_task(read_list()) for _ in range(4)]
        await asyncio.sleep(0)
        for _ in range(10):
            await authenticate(app.state.service.quick_reader, header)
        await asyncio.gather(*lists)

    async with app.router.lifespan_context(app), client:
        yield {
            f"list of {PAGE} jobs": read_list,
            f"{PAGE} polls": poll,
            "round of placement": place,
            "10 authentications during 4 lists": authenticate_during_lists,
        }


async def compare(queues: Sequence[tuple[ApiSettings, str, list[str]]], repeats: int) -> dict[str, list[float]]:
    """Return the median seconds of each operation on each queue; the queues take turns."""
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(open_queue(*queue)) for queue in queues]
        medians = {}
        for name in both[0]:
            for operations in both:
                await operations[name]()  # fills caches; the first round of placement records why jobs wait
            taken = [[await _time(operations[name]) for operations in both] for _ in range(repeats)]
            medians[name] = [statistics.median(column) for column in zip(*taken, strict=True)]
    return medians


async def _time(operation: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await operation()
    return time.perf_counter() - began


def main() -> None:
    """Fill both queues, measure both, and print the ratios of the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--databases", nargs=2, default=["", ""], help="empty databases for small and largest specs")
    options = parser.parse_args()
    queues = []
    with tempfile.TemporaryDirectory() as folder:
        for name, spec, url in zip(["small", "largest"], [SMALL, largest_spec()], options.databases, strict=True):
            settings = ApiSettings(home=Path(folder) / name, database_url=url, redis_url="redis://127.0.0.1:1/0")
            queues.append((settings, *fill_queue(settings, spec, options.jobs)))
        medians = asyncio.run(compare(queues, options.repeats))
    print(f"{options.jobs} queued jobs\n| operation | small specs | largest specs | ratio |\n| --- | --- | --- | --- |")
    ratios = {name: round(largest / small, 2) for name, (small, largest) in medians.items()}
    for name, (small, largest) in medians.items():
        print(f"| {name} | {small * 1000:.1f} ms | {largest * 1000:.1f} ms | {ratios[name]} |")
    print(json.dumps({"ratios": ratios, "limit": MAX_RATIO}))
    sys.exit(max(ratios.values()) > MAX_RATIO)


if __name__ == "__main__":
    main()
