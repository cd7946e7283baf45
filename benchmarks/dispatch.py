"""Measure the time from a job's acceptance to its start, and that of a bare Celery task; see benchmarks/README.md.

Usage: python -m benchmarks.dispatch [--jobs 100]

Jobs run one after the other in a real service with one worker. The Celery task uses the same Redis.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import redis
import sqlalchemy as sa

from baichuan_client import Client
from examples.tiny_checkpoint import make_tiny_checkpoint
from jobs.database import Database
from jobs.settings import Settings


def measure_ours(jobs: int) -> dict[str, list[float]]:
    """Run one-token generate jobs; return the milliseconds from acceptance to claim and from claim to end."""
    settings = Settings()
    with Client() as client:
        client.models.register("tiny", make_tiny_checkpoint(settings.allowed_model_roots[0] / "tiny"))
        spec = {"kind": "generate", "model": "tiny", "prompts": ["a"], "max_new_tokens": 1}
        ids = [client.jobs.submit(spec).wait().id for _ in range(jobs + 3)]
    database = Database(settings.effective_database_url)
    query = sa.text(
        "SELECT a.claimed_at - j.created_at, a.finished_at - a.claimed_at"
        " FROM jobs j JOIN attempts a ON a.job_id = j.id WHERE j.id = :id"
    )
    with database.reading() as connection:  # without the first three, which wait for the worker's imports
        rows = [connection.execute(query, {"id": job_id}).one() for job_id in ids[3:]]
    return {"start": [float(row[0]) for row in rows], "run": [float(row[1]) for row in rows]}


def measure_bare_celery(jobs: int, url: str) -> list[float]:
    """Run bare Celery tasks; return the milliseconds from publishing to start."""
    os.environ["BARE_REDIS_URL"] = url
    from benchmarks.bare_celery import note  # noqa: PLC0415 - reads BARE_REDIS_URL on import

    command = ["-m", "celery", "-A", "benchmarks.bare_celery", "worker", "--pool", "threads", "-c", "1", "-Q", "bare"]
    worker = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
    latencies = []
    try:
        for number in range(jobs + 3):
            sent = time.time()
            note.apply_async([number], queue="bare")
            _, noted = cast("tuple[str, str]", client.blpop(["bare:started"], timeout=30))
            latencies.append((float(noted.partition(":")[2]) - sent) * 1000)
    finally:
        worker.terminate()
        worker.wait()
    return latencies[3:]


def format_row(name: str, values: Sequence[float]) -> str:
    """Format a row of the table: median and 99th percentile."""
    ordered = sorted(values)
    return f"| {name} | {statistics.median(ordered):.0f} ms | {ordered[int(len(ordered) * 0.99)]:.0f} ms |"


def main() -> None:
    """Start a service and run the measurement against it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100)
    options = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        with tempfile.TemporaryDirectory() as home:
            again = [sys.executable, "-m", "benchmarks.dispatch", "--jobs", str(options.jobs)]
            baichuan = Path(sys.executable).with_name("baichuan")
            environment = {**os.environ, "BAICHUAN_HOME": home, "PYTHONPATH": str(Path(__file__).parents[1])}
            sys.exit(subprocess.run([baichuan, "up", "--", *again], env=environment, check=False).returncode)
    measured = measure_ours(options.jobs)
    baseline = measure_bare_celery(options.jobs, Settings().effective_redis_url)
    ratio = statistics.median(measured["start"]) / statistics.median(baseline)
    print("| interval | median | p99 |\n| --- | --- | --- |")
    print(format_row("job accepted until claimed by the worker", measured["start"]))
    print(format_row("claimed until succeeded (one token, tiny model, runner process)", measured["run"]))
    print(format_row("bare Celery task, published until started", baseline))
    print(json.dumps({"ratio of the medians": round(ratio, 2)}))


if __name__ == "__main__":
    main()
