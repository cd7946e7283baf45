"""Compare submitting and polling with a baseline measured in the same run; see benchmarks/README.md.

Usage: python -m benchmarks.submit_and_poll [--seconds 5] [--rounds 3]

DATABASE_URL sets the database (by default SQLite in a temporary directory).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import LoadResult, measure, request
from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.records import ModelRecord
from jobs.repository import models
from jobs.service import keys
from jobs.settings import Settings

OUR_PORT, BASELINE_PORT, BROKER_PORT = 18_431, 18_432, 18_433
SPEC = {"kind": "generate", "model": "m", "prompts": ["你好, please tell me about queues. " * 10], "max_new_tokens": 64}


@contextmanager
def servers(home: Path) -> Iterator[str]:
    """Run our API, the baseline and a broker; yield an API key."""
    redis_url = f"redis://127.0.0.1:{BROKER_PORT}/0"
    url = os.environ.get("DATABASE_URL", "")
    settings = Settings(home=home, database_url=url, redis_url=redis_url)
    prepare_deployment(settings)
    key = _key_and_model(settings)
    environment = {
        **os.environ,
        "BAICHUAN_HOME": str(home),
        "REDIS_URL": redis_url,
        "BAICHUAN_PORT": str(OUR_PORT),
        "FLOOR_DATABASE_URL": _floor_url(settings),
        "FLOOR_REDIS_URL": redis_url,
    }
    floor = ["-m", "uvicorn", "benchmarks.floor_app:app", "--port", str(BASELINE_PORT), "--log-level", "warning"]
    commands = [
        ["redis-server", "--port", str(BROKER_PORT), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        [sys.executable, "-m", "api"],
        [sys.executable, *floor],
    ]
    with (home / "servers.log").open("w") as log:
        running = [subprocess.Popen(c, env=environment, stdout=log, stderr=log) for c in commands]
        try:
            for port in (OUR_PORT, BASELINE_PORT):
                _wait_for(port)
            yield key
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait()


def _key_and_model(settings: Settings) -> str:
    database, secret = Database(settings.effective_database_url), keys.new_secret()
    with database.writing() as connection:
        key = keys.create(connection, project="benchmark", name="benchmark", role="member", secret=secret)
        record = ModelRecord(key.project_id, "m", "checkpoint", "ready", None, None, "/m", None, {}, 1)
        models.add(connection, record)
    database.close()
    return secret


def _floor_url(settings: Settings) -> str:
    url = Database(settings.effective_database_url).url
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{settings.home.resolve() / 'floor.sqlite3'}"
    return url.render_as_string(hide_password=False)


def _wait_for(port: int) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"no server answers on port {port}: check that the port is free")


def compare(name: str, ours: Callable[[], LoadResult], baseline: Callable[[], LoadResult], rounds: int) -> None:
    """Measure both alternately, and print the medians and the median of the ratios."""
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    rate = statistics.median(mine.rate for mine, _ in pairs)
    baseline_rate = statistics.median(theirs.rate for _, theirs in pairs)
    ratio = statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)
    p99 = statistics.median(mine.p99_ms / theirs.p99_ms for mine, theirs in pairs)
    latency = statistics.median(mine.p99_ms for mine, _ in pairs)
    cells = f"{rate:,.0f}/s | {baseline_rate:,.0f}/s | {ratio:.2f} | {latency:.0f} ms | {p99:.2f}"
    print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    """Run all comparisons and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| request | ours | baseline | ratio | our p99 | p99 ratio |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as key:
        body = json.dumps(SPEC).encode()
        submit = request("POST", "/v1/jobs", key=key, body=body)
        for clients in (16, 64):

            def run(port: int, make_request: Callable[[], bytes], status: int, clients: int = clients) -> LoadResult:
                return measure(port, make_request, clients=clients, seconds=options.seconds, status=status)

            compare(
                f"submit, {clients} clients",
                lambda: run(OUR_PORT, lambda: submit, 202),
                lambda: run(BASELINE_PORT, lambda: submit, 202),
                options.rounds,
            )
            compare(
                f"poll, {clients} clients",
                lambda: run(OUR_PORT, _polls(key), 200),
                lambda: run(BASELINE_PORT, lambda: request("GET", "/dict"), 200),
                options.rounds,
            )


def _polls(key: str) -> Callable[[], bytes]:
    """Return a function that cycles through requests for the newest hundred jobs."""
    ask = urllib.request.Request(
        f"http://127.0.0.1:{OUR_PORT}/v1/jobs?limit=100", headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(ask) as answer:
        ids = [job["id"] for job in json.load(answer)["data"]]
    requests = itertools.cycle([request("GET", f"/v1/jobs/{job_id}", key=key) for job_id in ids])
    return lambda: next(requests)


if __name__ == "__main__":
    main()
