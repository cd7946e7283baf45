"""Actions of users and the transport on running jobs."""

import os
import re
import shutil
from pathlib import Path

import pytest
from celery import Celery

from jobs.repository import allocations
from jobs.transport import TASK_NAME, create_celery_app, get_worker_queue_name
from tests.workers.deployment import Deployment, wait_for


def endless(service: Deployment, conversations: Path, **fields: object) -> str:
    """A job that will not end by itself while the test runs."""
    uploaded = service.upload(conversations, "fine-tune")
    spec = {"method": "full", "epochs": 1000, "batch_size": 1, "max_length": 64, "save_steps": 1000, **fields}
    return service.submit(kind="finetune", model="tiny", training_file=uploaded.id, **spec)


def runner_of(service: Deployment, worker: str, job_id: str) -> int:
    """Return the process group of the job's current attempt."""
    attempt_id = service.job(job_id).attempt_id
    found = re.search(rf"{attempt_id}: running as process group (\d+)", service.log_of(worker))
    assert found is not None
    return int(found.group(1))


def is_gone(process_group: int) -> bool:
    """Whether no process of the group is left."""
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return True
    return False


def test_cancelling_kills_the_runner(service: Deployment, conversations: Path) -> None:
    job_id = endless(service, conversations)
    service.wait_for_progress(job_id, "training")
    group = runner_of(service, "main", job_id)
    assert not is_gone(group)
    service.cancel(job_id)
    service.wait(job_id, "cancelled")
    wait_for("the end of the runner", lambda: is_gone(group))
    assert service.artifacts(job_id) == {}
    attempt = service.attempts(job_id)[0]
    assert attempt.state == "cancelled"
    folder = service.settings.home / "artifacts" / "jobs" / job_id / attempt.id
    wait_for("its output to be deleted", lambda: not (folder / "output").exists())


@pytest.mark.slow
def test_a_lost_attempt_leaves_only_what_can_be_resumed_from(service: Deployment, conversations: Path) -> None:
    job_id = endless(service, conversations)
    service.wait_for_progress(job_id, "training")
    lost = service.attempts(job_id)[0].id
    folder = service.settings.home / "artifacts" / "jobs" / job_id / lost

    def lose() -> bool:
        with service.database.writing() as connection:
            allocations.update(connection, lost, {"deadline": 1})
        return service.attempts(job_id)[0].state == "lost"

    wait_for("the attempt to be lost", lose)
    # If its runner has written after the first deletion, a second one follows when the lease must be over.
    wait_for("its output to be deleted", lambda: not (folder / "output").exists(), seconds=180)
    assert (folder / "checkpoints").is_dir()
    service.wait(job_id, "running")
    service.cancel(job_id)
    service.wait(job_id, "cancelled")
    wait_for("all outputs to be deleted", lambda: not list(folder.parent.glob("*/output")))


def test_a_paused_fine_tune_continues_from_its_resume_point(service: Deployment, conversations: Path) -> None:
    job_id = endless(service, conversations)
    service.wait_for_progress(job_id, "training")
    service.pause(job_id)
    paused = service.wait(job_id, "paused")
    assert (paused.error, paused.result, paused.attempt_id) == (None, None, None)
    assert [attempt.state for attempt in service.attempts(job_id)] == ["released"]
    service.resume(job_id)
    second = wait_for("a second attempt", lambda: service.attempts(job_id)[1:])[0]

    def first_step() -> float | None:
        events = [event.data for event in service.events(job_id, "progress") if event.attempt_id == second.id]
        return next((data["metrics"]["step"] for data in events if data["stage"] == "training"), None)

    assert wait_for("its first step", first_step) > 1
    service.cancel(job_id)
    service.wait(job_id, "cancelled")


def test_a_job_that_runs_too_long_fails(service: Deployment, conversations: Path) -> None:
    job = service.wait(endless(service, conversations, timeout_seconds=1), "failed")
    assert job.error is not None
    assert job.error["code"] == "timeout"
    assert "timeout_seconds=1" in job.error["message"]
    assert len(service.attempts(job.id)) == 1


def test_a_message_that_comes_twice_runs_once(service: Deployment) -> None:
    job_id = service.submit(kind="generate", model="tiny", prompts=["hello"], max_new_tokens=64)
    attempt_id = wait_for("an attempt", lambda: service.attempts(job_id))[0].id
    app: Celery = create_celery_app(service.settings)
    for _ in range(2):
        app.send_task(TASK_NAME, args=[attempt_id], queue=get_worker_queue_name("main"))
    service.wait(job_id)
    wait_for("both messages", lambda: service.log_of("main").count(f"{attempt_id}: skipped") == 2)
    assert len(service.attempts(job_id)) == 1
    assert [event.data["event"] for event in service.events(job_id, "state")].count("claim") == 1
    app.close()


def test_bad_data_fails_with_the_line_at_fault(service: Deployment, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"prompt": "hello"}\n{"prompt": \n', encoding="utf-8")
    uploaded = service.upload(source, "prompts")
    job = service.wait(service.submit(kind="generate", model="tiny", input_file=uploaded.id), "failed")
    assert job.error is not None
    assert job.error["code"] == "dataset"
    assert "line 2" in job.error["message"]
    assert service.artifacts(job.id) == {}


def test_a_model_whose_directory_is_gone_or_leads_out_is_refused(
    service: Deployment, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    moved = tiny_checkpoint / "moved"
    shutil.copytree(tiny_checkpoint, moved)
    service.register("moved", moved)
    shutil.copytree(moved, tmp_path / "outside")
    shutil.rmtree(moved)
    job = service.wait(service.submit(kind="generate", model="moved", prompts=["hello"]), "failed")
    assert job.error is not None
    assert "no longer exists" in job.error["message"]
    moved.symlink_to(tmp_path / "outside")
    job = service.wait(service.submit(kind="generate", model="moved", prompts=["hello"]), "failed")
    assert job.error is not None
    assert job.error["code"] == "path_not_allowed"
    moved.unlink()


def test_redis_may_forget_everything_while_jobs_run(service: Deployment) -> None:
    job_ids = [service.submit(kind="generate", model="tiny", prompts=["hello"], max_new_tokens=16) for _ in range(4)]
    service.wait(job_ids[0], "running", "succeeded")
    service.server.flush()
    for job_id in job_ids:
        service.wait(job_id)
