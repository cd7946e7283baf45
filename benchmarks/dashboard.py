"""Measure the API requests of the dashboard; see benchmarks/README.md.

Usage: python -m benchmarks.dashboard [--jobs 100000] [--lines 1000000] [--points 200000] [--cancel 10000]

Requests go over HTTP to a real service without workers. DATABASE_URL sets the database.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from jobs.database import Database, now_ms
from jobs.database.tables import Job, JobEvent, JobLabel, JobSearch, MetricPoint
from jobs.identifiers import new_id
from jobs.repository import keys
from jobs.scheduling import Requirement
from jobs.settings import Settings
from jobs.specs import SPEC_ADAPTER
from jobs.specs.searchable import build_searchable_error, build_searchable_fields

BATCH = 2000
LIMIT = 30  # jobs on the first page of the list
STATES = ["succeeded"] * 6 + ["failed"] * 3 + ["cancelled"]
METRICS = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
LINES_PER_CHUNK = 100
STREAMS = 8
IDLE_SECONDS = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Bench:
    """A running service, and direct access to its database."""

    client: httpx.Client
    database: Database
    project_id: str
    api_pid: int

    def fill_jobs(self, count: int, states: Sequence[str], label: str) -> list[str]:
        """Insert jobs as in a service that has run for some time: most have ended, many with a long error message."""
        ids: list[str] = []
        for start in range(0, count, BATCH):
            rows = [self._job(number, states, label) for number in range(start, min(start + BATCH, count))]
            search = [_search_row(row) for row in rows]
            with self.database.writing() as connection:
                connection.execute(sa.insert(Job), rows)
                connection.execute(sa.insert(JobSearch), search)
                connection.execute(sa.insert(JobLabel), [_label_row(row) for row in rows])
            ids += [row["id"] for row in rows]
        return ids

    def _job(self, number: int, states: Sequence[str], label: str) -> dict[str, Any]:
        spec = make_spec(number % 6, label)
        state, now = states[number % len(states)], int(time.time() * 1000)
        message = f"GPU {number % 8} has {number % 80} GB free; lower batch_size or max_length"
        return {
            "id": new_id("job"),
            "project_id": self.project_id,
            "kind": spec["kind"],
            "state": state,
            "submitter": "first key" if number % 100 else "nightly",
            "spec": spec,
            "source_model": "base",
            "labels": spec["labels"],
            "requirement": Requirement(devices=1, device_memory_bytes=2**30, reserve_bytes=2**31).to_row(),
            "priority": 0,
            "max_attempts": 3,
            "error": {"code": "out_of_memory", "message": message} if state == "failed" else None,
            "created_at": now,
            "finished_at": None if state == "queued" else now,
        }

    def row(self, name: str, path: str, repeats: int = 40, **query: Any) -> float:
        """Measure a GET request and print its row of the table; return the 95th percentile in milliseconds."""
        taken, size, before = [], 0, cpu_seconds(self.api_pid)
        for _ in range(repeats):
            begun = time.perf_counter()
            answer = self.client.get(path, params=query).raise_for_status()
            taken.append((time.perf_counter() - begun) * 1000)
            size = len(answer.content)
        busy = (cpu_seconds(self.api_pid) - before) / repeats * 1000
        ordered = sorted(taken)
        median, p95 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
        print(f"| {name} | {median:.0f} ms | {p95:.0f} ms | {busy:.0f} ms | {size / 1000:.1f} kB |", flush=True)
        return p95


@cache
def make_spec(number: int, label: str) -> dict[str, Any]:
    """Return one of six specs: two kinds with three values of a field each."""
    shared = {"model": "base", "labels": {"run": label}}
    if number % 2:
        prompts = ["Please explain in three sentences how a job queue works. " * 4]
        spec: Any = {"kind": "generate", "prompts": prompts, "temperature": [0.1, 0.5, 1.0][number % 3]}
    else:
        spec = {"kind": "quantize", "method": ["nf4", "int8", "fp4"][number % 3]}
    return SPEC_ADAPTER.validate_python({**spec, **shared}).model_dump(mode="json")


def _search_row(row: dict[str, Any]) -> dict[str, Any]:
    shared = {name: row[name] for name in ("project_id", "submitter", "created_at")}
    error = build_searchable_error(row["error"])
    return {**shared, "job_id": row["id"], "fields": build_searchable_fields(row["spec"]), "error": error}


def _label_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"project_id": row["project_id"], "job_id": row["id"], "key": "run", "value": row["labels"]["run"]}


def measure_lists(bench: Bench, ids: Sequence[str]) -> dict[str, float]:
    """Measure lists with every filter, and counts, over all jobs."""
    filters: dict[str, dict[str, Any]] = {
        "no filter": {},
        "no filter, from the middle": {"after": ids[len(ids) // 2]},
        "state": {"state": "failed"},
        "kind and state": {"kind": "quantize", "state": "cancelled"},
        "label": {"label": "run:all"},
        "field, a third of all": {"field": "method:nf4"},
        "field, none": {"field": "method:gptq"},
        "field and state, none": {"field": "method:gptq", "state": "failed"},
        "error, most failed": {"error": "lower batch_size"},
        "error, none": {"error": "no such text"},
        "error and state and kind, none": {"error": "no such text", "state": "failed", "kind": "quantize"},
        "id": {"id": ids[100][:-1]},
        "submitter, 1%": {"submitter": "nightly"},
        "time, none": {"created_before": 5},
    }
    times = [bench.row(f"list: {name}", "/v1/jobs", limit=LIMIT, **query) for name, query in filters.items()]
    counts = [
        bench.row(f"counts: {name}", "/v1/jobs/counts", 20, **filters[name])
        for name in ("no filter", "label", "field, a third of all", "error, none")
    ]
    return {"slowest list, p95 ms": max(times), "slowest counts, p95 ms": max(counts)}


def measure_log(bench: Bench, job: str, lines: int) -> dict[str, float]:
    """Measure a long log: its end, its middle, and searching all of it."""
    texts = [f"step {n} loss 1.2345 grad_norm 0.5678 tokens_per_second 12345.6 epoch 0.1234 更多" for n in range(lines)]
    texts[lines // 3] = "Traceback (most recent call last)"
    for start in range(0, lines, LINES_PER_CHUNK * 100):
        rows = [
            {
                "job_id": job,
                "sequence": 10 + first // LINES_PER_CHUNK,
                "type": "log",
                "data": {"stream": "stdout", "lines": texts[first : first + LINES_PER_CHUNK]},
                "created_at": 1,
                "first_line": first + 1,
            }
            for first in range(start, min(lines, start + LINES_PER_CHUNK * 100), LINES_PER_CHUNK)
        ]
        with bench.database.writing() as connection:
            connection.execute(sa.insert(JobEvent), rows)
    with bench.database.writing() as connection:
        connection.execute(sa.update(Job).where(Job.id == job).values(log_lines=lines, last_event=10 + lines))
    address = f"/v1/jobs/{job}/logs"
    opened = bench.row("log: the last 500 lines", f"{address}/lines", limit=500)
    bench.row("log: 500 lines in the middle", f"{address}/lines", limit=500, first=lines // 2)
    bench.row("log: search, one match", f"{address}/search", 5, query="Traceback", context=3)
    bench.row("log: search, all match", f"{address}/search", 5, query="loss", direction="previous")
    return {"log opens at its end, p95 ms": opened}


def measure_metrics(bench: Bench, job: str, points: int) -> dict[str, float]:
    """Measure the metrics of a long run: all steps, and one hundredth of them."""
    for name in METRICS:
        for start in range(0, points, 10_000):
            steps = range(start, min(points, start + 10_000))
            rows = [
                {"job_id": job, "name": name, "step": step, "attempt": 1, "value": 1 / (step + 1)} for step in steps
            ]
            with bench.database.writing() as connection:
                connection.execute(sa.insert(MetricPoint), rows)
    address = f"/v1/jobs/{job}/metrics"
    whole = bench.row("metrics: one of four, all steps", address, 10, names="loss", buckets=1000)
    bench.row("metrics: all four, all steps", address, 5, buckets=1000)
    part = {"start": points // 2, "stop": points // 2 + points // 100}
    bench.row("metrics: all four, 1% of the steps", address, 20, buckets=1000, **part)
    return {"one metric of all steps, p95 ms": whole}


def measure_bulk_cancel(bench: Bench, count: int) -> dict[str, float]:
    """Measure cancelling many queued jobs while another client lists jobs."""
    bench.fill_jobs(count, ["queued"], "bulk")
    body = {"action": "cancel", "filter": {"label": "run:bulk"}}
    taken, done = [], threading.Event()

    def keep_listing() -> None:
        while not done.is_set():
            begun = time.perf_counter()
            bench.client.get("/v1/jobs", params={"limit": LIMIT}).raise_for_status()
            taken.append((time.perf_counter() - begun) * 1000)

    with ThreadPoolExecutor(1) as others:
        listing = others.submit(keep_listing)
        begun = time.perf_counter()
        operation = bench.client.post("/v1/bulk-operations", json=body).raise_for_status().json()
        while operation["state"] == "running":
            time.sleep(0.05)
            operation = bench.client.get(f"/v1/bulk-operations/{operation['id']}").json()
        seconds = time.perf_counter() - begun
        done.set()
        listing.result()
    if operation["changed"] != count:
        raise SystemExit(f"{operation} should have cancelled {count} jobs")
    late = sorted(taken)[int(len(taken) * 0.95)]
    print(
        f"| bulk: {count} jobs cancelled | {seconds:.1f} s | | | |\n| list meanwhile | | {late:.0f} ms | | |",
        flush=True,
    )
    return {"cancelled, s": seconds}


def measure_streams(bench: Bench) -> dict[str, float]:
    """Measure open streams: the CPU time of the API while nothing happens, and the delay of an event."""
    ready, heard = threading.Barrier(STREAMS + 1), [threading.Event() for _ in range(STREAMS)]

    def follow(number: int) -> None:
        with bench.client.stream("GET", "/v1/events", headers={"Accept": "text/event-stream"}) as answer:
            for line in answer.iter_lines():
                if line == "event: ready":
                    ready.wait()
                if line == "event: bulk":
                    heard[number].set()
                    return

    with ThreadPoolExecutor(STREAMS) as readers:
        following = [readers.submit(follow, number) for number in range(STREAMS)]
        ready.wait()
        before = cpu_seconds(bench.api_pid)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(bench.api_pid) - before) / IDLE_SECONDS
        begun = time.perf_counter()
        nothing = {"action": "cancel", "filter": {"id": "job-nothing"}}
        bench.client.post("/v1/bulk-operations", json=nothing).raise_for_status()
        for each in heard:
            each.wait(10)
        delay = (time.perf_counter() - begun) * 1000
        for reader in following:
            reader.result()
    print(
        f"| {STREAMS} idle streams | {idle:.2%} of a core | | |\n| a change reaches all of them | {delay:.0f} ms | | |"
    )
    return {"idle streams, fraction of a core": idle, "delay of a change, ms": delay}


def api_process() -> int:
    """Return the process id of the API; `baichuan up` is the parent of the API and of this process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except (OSError, IndexError, ValueError):
            continue
        if parent == os.getppid() and command[-1] == b"api":
            return int(folder.name)
    raise SystemExit("the API's process was not found; run this script without BAICHUAN_URL")


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def connect() -> Iterator[Bench]:
    """Yield access to the service that the environment names."""
    database = Database(Settings().effective_database_url)
    headers = {"Authorization": f"Bearer {os.environ['BAICHUAN_API_KEY']}"}
    with httpx.Client(base_url=os.environ["BAICHUAN_URL"], headers=headers, timeout=120, trust_env=False) as client:
        with database.writing() as connection:
            project_id = keys.ensure_project(connection, "default", now=now_ms(connection))
        yield Bench(client, database, project_id, api_process())
    database.close()


def main() -> None:
    """Start a service and run the measurement against it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--cancel", type=int, default=10_000)
    options = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        with tempfile.TemporaryDirectory() as home:
            again = [sys.executable, "-m", "benchmarks.dashboard", *sys.argv[1:]]
            baichuan = Path(sys.executable).with_name("baichuan")
            environment = {**os.environ, "BAICHUAN_HOME": home, "PYTHONPATH": str(Path(__file__).parents[1])}
            up = [str(baichuan), "up", "--no-worker", "--", *again]
            sys.exit(subprocess.run(up, env=environment, check=False).returncode)
    for bench in connect():
        print("| request | median | p95 | CPU time of the API | response |\n| --- | --- | --- | --- | --- |")
        ids = bench.fill_jobs(options.jobs, STATES, "all")
        results = measure_lists(bench, ids)
        results |= measure_log(bench, ids[0], options.lines)
        results |= measure_metrics(bench, ids[1], options.points)
        results |= measure_bulk_cancel(bench, options.cancel)
        results |= measure_streams(bench)
        print(json.dumps({name: round(value, 3) for name, value in results.items()}))


if __name__ == "__main__":
    main()
