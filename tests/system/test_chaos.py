"""Every process is killed repeatedly, and Redis loses its data; each job still ends once, with the correct result."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint
from jobs.artifacts import describe_files
from jobs.errors import IllegalTransitionError
from jobs.records import AttemptRecord
from jobs.transport import Transport
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for

JOBS_PER_ROUND = {"generate": 18, "finetune": 1, "convert": 2}
SECONDS_BETWEEN_BLOWS = 1.5
PATIENCE_SECONDS = 240


class Chaos:
    """Disrupts a deployment of two dispatchers and two workers at random, and restarts what it has killed."""

    def __init__(self, service: Deployment, seed: int) -> None:
        self.service = service
        self.random = random.Random(seed)  # noqa: S311 - which process dies next is no secret
        self.generation = Counter[str]()
        self.ids: list[str] = []
        self.cancelled: list[str] = []
        for role in ("dispatcher-a", "dispatcher-b", "worker-a", "worker-b"):
            self.start(role)

    def start(self, role: str) -> None:
        """Start the next process in this role; a new worker has a new id."""
        self.generation[role] += 1
        name = f"{role}-{self.generation[role]}"
        if role.startswith("worker"):
            self.service.start_worker(name)
        else:
            self.service.start_dispatcher(name)

    def shuffle_blows(self) -> list[Callable[[], None]]:
        """Return every disruption, in random order."""
        blows = [
            self.kill_worker,
            self.kill_worker,
            self.drain_worker,
            self.kill_dispatcher,
            self.flush,
            self.restart_redis,
            self.deafen,
            self.drain_cold_worker,
            self.cancel_on_cold_worker,
        ]
        self.random.shuffle(blows)
        return blows

    def kill_worker(self) -> None:
        """kill -9."""
        self.replace(self.random.choice(["worker-a", "worker-b"]), signal.SIGKILL)

    def drain_worker(self) -> None:
        """SIGTERM: the running job is released."""
        self.replace(self.random.choice(["worker-a", "worker-b"]), signal.SIGTERM)

    def kill_dispatcher(self) -> None:
        """kill -9, of the leader or of the stand-by."""
        self.replace(self.random.choice(["dispatcher-a", "dispatcher-b"]), signal.SIGKILL)

    def flush(self) -> None:
        """Redis loses all messages."""
        self.service.server.flush()

    def restart_redis(self) -> None:
        """Redis is killed and restarted without data."""
        self.service.server.stop()
        time.sleep(0.5)
        self.service.server.start()

    def deafen(self) -> None:
        """Redis dies while a message waits behind every running job, and is restarted once those jobs have ended."""
        transport = Transport(self.service.settings)
        busy = [(job, attempt) for job in self.ids for attempt in self.running(job)]
        for _, attempt in busy:
            transport.send_attempt(attempt.worker_id, attempt.id)
        transport.close()
        time.sleep(0.5)
        self.service.server.stop()
        with suppress(AssertionError):  # a fine-tune may take longer
            wait_for("these attempts to end", lambda: not any(self.running(job) for job, _ in busy), seconds=5)
        self.service.server.start()

    def drain_cold_worker(self) -> None:
        """SIGTERM, twice; the second time as soon as the new worker has taken a job, before it can start a runner."""
        role = self.random.choice(["worker-a", "worker-b"])
        self.replace(role, signal.SIGTERM)
        self.wait_for_claim(role)
        self.replace(role, signal.SIGTERM)

    def cancel_on_cold_worker(self) -> None:
        """A new worker's first job is cancelled, and another like it submitted in its place."""
        role = self.random.choice(["worker-a", "worker-b"])
        self.replace(role, signal.SIGKILL)
        job_id = self.wait_for_claim(role)
        if job_id and self.service.job(job_id).kind == "generate":
            with suppress(IllegalTransitionError):
                self.service.cancel(job_id)
                self.ids.remove(job_id)
                self.cancelled.append(job_id)
                self.ids.append(self.service.submit(max_attempts=10, **generate()))

    def running(self, job_id: str) -> list[AttemptRecord]:
        """The attempt that a worker has claimed, if any."""
        return [attempt for attempt in self.service.attempts(job_id) if attempt.state == "running"]

    def wait_for_claim(self, role: str) -> str | None:
        """The first job of the worker that is new in this role; None if it gets none for a while."""
        worker = f"{role}-{self.generation[role]}"

        def claimed() -> str | None:
            mine = (job for job in self.ids if any(a.worker_id == worker for a in self.running(job)))
            return next(mine, None)

        with suppress(AssertionError):
            return wait_for("a job on the new worker", claimed, seconds=5)
        return None

    def replace(self, role: str, number: signal.Signals) -> None:
        """End the process in a role, and start another."""
        self.service.end(f"{role}-{self.generation[role]}", number)
        self.start(role)


@pytest.mark.alone
@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("rounds", [2, pytest.param(6, marks=pytest.mark.long)])
def test_no_job_is_lost_or_done_twice(kind: str, rounds: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("postgresql_url") if kind == "postgresql" else ""
    server = RedisServer(tmp_path)
    server.start()
    clock: dict[str, Any] = {"lease_seconds": 4, "heartbeat_seconds": 0.5, "pickup_seconds": 4, "backoff_seconds": 0.1}
    models = tmp_path / "models"
    with deployment(tmp_path / "home", server, database_url=url, model_roots=str(models), **clock) as service:
        service.register("tiny", make_tiny_checkpoint(models / "tiny"))
        chaos = Chaos(service, seed=7)
        expected = reference(service)
        chaos.ids = submit_all(service, rounds)
        for blow in [blow for _ in range(rounds) for blow in chaos.shuffle_blows()]:
            blow()
            repeat_messages(service, chaos.ids, chaos.random)
            time.sleep(SECONDS_BETWEEN_BLOWS)
        ids, cancelled = chaos.ids, chaos.cancelled
        wait_for("the end", lambda: all(service.job(i).state.is_final for i in ids + cancelled), PATIENCE_SECONDS)
        for job_id in ids:
            check(service, job_id, expected)
        assert {service.job(job_id).state for job_id in cancelled} <= {"cancelled"}
        ends = Counter(attempt.state for job_id in ids for attempt in service.attempts(job_id))
        assert ends.total() > ends["succeeded"], "no blow hit a job"
    server.stop()


def reference(service: Deployment) -> str:
    """The expected answers of the generate jobs, from an undisturbed one."""
    job_id = service.submit(**generate())
    service.wait(job_id)
    return answers(service, job_id)


def generate() -> dict[str, Any]:
    """The spec of every generate job."""
    prompts = ["你好", "a queue"]
    return {"kind": "generate", "model": "tiny", "prompts": prompts, "max_new_tokens": 160, "temperature": 0}


def submit_all(service: Deployment, rounds: int) -> list[str]:
    """Jobs of three kinds; lost workers must not use up their attempts."""
    data = service.upload(CONVERSATIONS, "fine-tune").id
    training = {"training_file": data, "method": "full", "epochs": 10, "max_length": 64, "save_steps": 5}
    of_kind: dict[str, dict[str, Any]] = {
        "finetune": {"kind": "finetune", "model": "tiny", **training},
        "convert": {"kind": "convert", "model": "tiny", "target": "baichuan1"},
        "generate": generate(),
    }
    specs = [spec for kind, spec in of_kind.items() for _ in range(rounds * JOBS_PER_ROUND[kind])]
    return [service.submit(max_attempts=10, **spec) for spec in specs]


def repeat_messages(service: Deployment, ids: list[str], chooser: random.Random) -> None:
    """Deliver messages of old and current attempts again."""
    transport = Transport(service.settings)
    for job_id in chooser.sample(ids, 5):
        for attempt in service.attempts(job_id):
            transport.send_attempt(attempt.worker_id, attempt.id)
    transport.close()


def answers(service: Deployment, job_id: str) -> str:
    """The completions of a generate job."""
    lines = service.read(service.artifacts(job_id)["completions.jsonl"]).decode().splitlines()
    return json.dumps([json.loads(line)["completion"] for line in lines], ensure_ascii=False)


def check(service: Deployment, job_id: str, expected: str) -> None:
    """Check for one success, complete artifacts of that attempt only, a gapless log, and the expected answer."""
    job, tries, log = service.job(job_id), service.attempts(job_id), service.events(job_id)
    assert job.state == "succeeded", (job, service.printed(job_id))
    assert [attempt.id for attempt in tries if attempt.state == "succeeded"] == [job.attempt_id]
    assert not [attempt for attempt in tries if attempt.state in ("dispatched", "running")]
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    states = [event.data for event in log if event.type == "state"]
    assert [change["from"] for change in states[1:]] == [change["to"] for change in states[:-1]]
    artifacts = service.artifacts(job_id)
    assert {artifact.attempt_id for artifact in artifacts.values()} == {job.attempt_id}
    stored = describe_files(service.store.fetch_path(f"jobs/{job_id}/{job.attempt_id}/output"))
    assert {(file.path, file.sha256) for file in stored} == {(a.path, a.sha256) for a in artifacts.values()}
    if job.kind == "generate":
        assert answers(service, job_id) == expected
    else:
        assert service.model(job_id).key == f"jobs/{job_id}/{job.attempt_id}/output/model"
