"""Workers that die, leave, or never hear of their job."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from tests.workers.test_control import is_gone, runner_of

STEPS = 60


@pytest.fixture
def service(tmp_path: Path, redis_server: RedisServer, tiny_checkpoint: Path) -> Iterator[Deployment]:
    """A deployment with short leases and no worker yet."""
    clock: dict[str, float] = {"lease_seconds": 3, "heartbeat_seconds": 0.5, "pickup_seconds": 4, "backoff_seconds": 0}
    with deployment(tmp_path, redis_server, model_roots=str(tiny_checkpoint), **clock) as made:
        made.register("tiny", tiny_checkpoint)
        made.start_dispatcher()
        yield made


def begin_training(service: Deployment, conversations: Path) -> str:
    """Submit a fine-tune and wait until there is a checkpoint to resume from."""
    uploaded = service.upload(conversations, "fine-tune")
    epochs = STEPS / 18
    job_id = service.submit(
        kind="finetune",
        model="tiny",
        training_file=uploaded.id,
        method="full",
        epochs=epochs,
        batch_size=1,
        max_length=64,
        save_steps=5,
    )
    service.wait_for_progress(job_id, "training")
    folder = service.settings.home / "artifacts" / "jobs" / job_id
    wait_for("a checkpoint", lambda: list(folder.glob("*/checkpoints/*/trainer_state.json")))
    return job_id


def test_a_killed_worker_takes_its_runner_along_and_another_finishes_the_job(
    service: Deployment, conversations: Path
) -> None:
    service.start_worker("first")
    job_id = begin_training(service, conversations)
    group = runner_of(service, "first", job_id)
    service.end("first", signal.SIGKILL)
    wait_for("the end of the runner", lambda: is_gone(group), seconds=10)
    service.start_worker("second")
    job = service.wait(job_id)
    assert [attempt.state for attempt in service.attempts(job_id)] == ["lost", "succeeded"]
    assert job.result is not None
    assert job.result["resumed_from_step"] >= 5
    assert service.model(job_id).state == "ready"
    left = {path.name for path in (service.settings.home / "artifacts" / "jobs" / job_id).iterdir()}
    assert left == {service.attempts(job_id)[1].id}


def test_a_worker_told_to_end_gives_its_job_back_at_no_charge(service: Deployment, conversations: Path) -> None:
    service.start_worker("first")
    job_id = begin_training(service, conversations)
    group = runner_of(service, "first", job_id)
    assert service.end("first", signal.SIGTERM) == 0
    assert is_gone(group)
    job = service.job(job_id)
    assert (job.state, job.charged_attempts) == ("queued", 0)
    assert [attempt.state for attempt in service.attempts(job_id)] == ["released"]
    service.start_worker("second")
    job = service.wait(job_id)
    assert job.result is not None
    assert job.result["resumed_from_step"] >= 5


def test_a_message_lost_before_the_claim_is_sent_again(service: Deployment) -> None:
    worker = service.start_worker("first", start_method="spawn")
    worker.send_signal(signal.SIGSTOP)
    job_id = service.submit(kind="generate", model="tiny", prompts=["hello"], max_new_tokens=2)
    service.wait(job_id, "dispatched")
    service.server.flush()
    wait_for("the message to be given up", lambda: service.attempts(job_id)[0].state == "expired")
    worker.send_signal(signal.SIGCONT)
    job = service.wait(job_id)
    assert job.charged_attempts == 0
