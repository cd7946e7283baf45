"""Workers that die, shut down, or never receive their message."""

import json
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from examples.tiny_checkpoint import CONVERSATIONS
from jobs.records import WorkerRecord
from jobs.service import submission, workers
from jobs.service.submission import Submission, SubmittedJob
from jobs.specs import GenerateSpec, OpenAIBatch, StoredGenerateSpec
from tests.jobs.pool import CPU
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from tests.workers.test_control import is_gone, runner_of
from workers.handlers.batch_files import ERROR_FILE, OUTPUT_FILE

pytestmark = pytest.mark.slow  # every test kills or stops a worker

STEPS = 150
EXAMPLES = len(json.loads(CONVERSATIONS.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, tiny_checkpoint: Path
) -> Iterator[Deployment]:
    """A deployment with short leases; the tests start and end its workers."""
    clock: dict[str, Any] = {"lease_seconds": 3, "heartbeat_seconds": 0.5, "pickup_seconds": 4, "backoff_seconds": 0}
    home = tmp_path_factory.mktemp("recovery")
    with deployment(home, redis_server, model_roots=str(tiny_checkpoint), **clock) as made:
        made.register("tiny", tiny_checkpoint)
        made.start_dispatcher()
        yield made


def only_worker(service: Deployment, **settings: str) -> str:
    """The worker of a previous test if it is still running, otherwise a new one."""
    running = [name for name in service.running if name != "dispatcher"]
    return running[0] if running else fresh_worker(service, **settings)


def fresh_worker(service: Deployment, **settings: str) -> str:
    """An additional worker."""
    name = f"worker-{secrets.token_hex(4)}"
    service.start_worker(name, **settings)
    return name


def begin_training(service: Deployment, conversations: Path) -> str:
    """Submit a fine-tune and wait until there is a checkpoint to resume from."""
    uploaded = service.upload(conversations, "fine-tune")
    job_id = service.submit(
        kind="finetune",
        model="tiny",
        training_file=uploaded.id,
        method="full",
        epochs=STEPS / EXAMPLES,
        batch_size=1,
        max_length=64,
        save_steps=10,
    )
    folder = service.settings.home / "artifacts" / "jobs" / job_id
    wait_for("a checkpoint", lambda: list(folder.glob("*/checkpoints/*/trainer_state.json")))
    return job_id


def test_the_runner_of_a_killed_worker_dies_too_and_another_worker_finishes_the_job(
    service: Deployment, conversations: Path
) -> None:
    first = only_worker(service)
    job_id = begin_training(service, conversations)
    group = runner_of(service, first, job_id)
    service.end(first, signal.SIGKILL)
    wait_for("the end of the runner", lambda: is_gone(group), seconds=10)
    fresh_worker(service)
    job = service.wait(job_id)
    assert [attempt.state for attempt in service.attempts(job_id)] == ["lost", "succeeded"]
    assert job.result is not None
    assert job.result["resumed_from_step"] >= 10
    assert service.model(job_id).state == "ready"
    folder = service.settings.home / "artifacts" / "jobs" / job_id
    last = service.attempts(job_id)[1].id
    wait_for("earlier workspaces to be deleted", lambda: [path.name for path in folder.iterdir()] == [last])


@pytest.mark.parametrize(
    ("requests", "at_once", "tokens"), [(200, 1, 16), pytest.param(50_000, 64, 2, marks=pytest.mark.long)]
)
def test_each_request_of_a_batch_is_answered_once_although_its_worker_was_killed(
    service: Deployment, tmp_path: Path, requests: int, at_once: int, tokens: int
) -> None:
    first = only_worker(service)
    names = [f"request {number}" for number in range(requests)]
    bodies = [{"model": "tiny", "prompt": f"{number}"} for number in range(requests)]
    bodies[50] = {"model": "tiny", "prompt": "x" * 5000}  # does not fit into the window
    line = {"method": "POST", "url": "/v1/completions"}
    items = [{"custom_id": name, **line, "body": body} for name, body in zip(names, bodies, strict=True)]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    uploaded = service.upload(tmp_path / "batch.jsonl", "batch")
    fields = {"input_file": uploaded.id, "max_new_tokens": tokens, "batch_size": at_once}
    spec = GenerateSpec.model_validate({"kind": "generate", "model": "tiny", **fields})
    stored = StoredGenerateSpec(**spec.model_dump(), batch=OpenAIBatch(endpoint="/v1/completions", model="tiny"))
    with service.database.writing() as connection:
        (answer,) = submission.submit(connection, [Submission(service.project_id, spec, stored_spec=stored)])
    assert isinstance(answer, SubmittedJob)
    folder = service.settings.home / "artifacts" / "jobs" / answer.job.id

    def has_answers() -> bool:
        partial = list(folder.glob("*/checkpoints/*.partial.jsonl"))
        return bool(partial) and partial[0].read_text().count("\n") > requests / 40

    wait_for("the first answers", has_answers, seconds=120)
    service.end(first, signal.SIGKILL)
    fresh_worker(service)
    job = service.wait(answer.job.id, seconds=160 + requests / 20)
    assert [attempt.state for attempt in service.attempts(job.id)] == ["lost", "succeeded"]
    assert job.result is not None
    assert job.result["resumed"] > 0
    artifacts = service.artifacts(job.id)
    assert artifacts.keys() == {OUTPUT_FILE, ERROR_FILE}
    written = {name: service.read(artifact).decode().splitlines() for name, artifact in artifacts.items()}
    answered, failed = ([json.loads(each)["custom_id"] for each in written[name]] for name in (OUTPUT_FILE, ERROR_FILE))
    assert failed == ["request 50"]
    assert sorted(answered + failed) == sorted(names)


def test_a_worker_that_is_stopped_releases_its_job_without_counting(service: Deployment, conversations: Path) -> None:
    first = only_worker(service)
    job_id = begin_training(service, conversations)
    group = runner_of(service, first, job_id)
    assert service.end(first, signal.SIGTERM) == 0
    assert is_gone(group)
    job = service.job(job_id)
    assert (job.state, job.charged_attempts) == ("queued", 0)
    assert [attempt.state for attempt in service.attempts(job_id)] == ["released"]
    fresh_worker(service)
    job = service.wait(job_id)
    assert job.result is not None
    assert job.result["resumed_from_step"] >= 10


def test_a_spare_runner_is_replaced_once_it_is_taken(service: Deployment) -> None:
    service.end(only_worker(service))
    name = fresh_worker(service, start_method="spawn")

    def runners() -> set[int]:
        children = psutil.Process(service.running[name].pid).children()
        return {child.pid for child in children if "workers.runner" in child.cmdline()}

    wait_for("the spare runner", runners)
    (spare,) = runners()
    assert service.wait(service.submit(kind="generate", model="tiny", prompts=["hello"], max_new_tokens=2)).result
    assert runners() - {spare}


def test_a_message_lost_before_the_claim_is_sent_again(service: Deployment) -> None:
    """The second worker spawns its runners afresh, as on a GPU."""
    service.end(only_worker(service))
    ghost = WorkerRecord("ghost", "nowhere", 1, "active", ["generate"], 1, [CPU], started_at=0, seen_at=0)
    job_id = service.submit(kind="generate", model="tiny", prompts=["hello"], max_new_tokens=2)

    def dispatched() -> bool:
        with service.database.writing() as connection:
            workers.record_heartbeat(connection, ghost)
        return service.job(job_id).state == "dispatched"

    wait_for("the job to go to a worker that is none", dispatched)
    with service.database.writing() as connection:
        workers.sign_off(connection, ghost.id)
    service.server.flush()
    fresh_worker(service, start_method="spawn")
    assert service.wait(job_id).charged_attempts == 0
    assert [attempt.state for attempt in service.attempts(job_id)] == ["expired", "succeeded"]
    assert "completions.jsonl" in service.artifacts(job_id)
