"""Jobs get exclusive devices, on machines with declared GPUs, with real dispatchers, workers and runners."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_checkpoint import CONVERSATIONS
from jobs.records import AttemptRecord, JobRecord
from jobs.service import workers
from tests.system.declared_devices import GIB, gpus, running_pool
from tests.workers.deployment import Deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with a tiny model and a dispatcher; tests start the workers."""
    with running_pool(tmp_path) as running:
        yield running


def endless(service: Deployment, **fields: Any) -> str:
    """A fine-tuning job that runs until it is cancelled, alone on its device."""
    data = service.upload(CONVERSATIONS, "fine-tune").id
    training = {"training_file": data, "method": "full", "epochs": 1000, "max_length": 64, "save_steps": 1_000_000}
    return service.submit(kind="finetune", model="tiny", **training, **fields)


def generate(service: Deployment, **fields: Any) -> str:
    return service.submit(kind="generate", model="tiny", prompts=["a"], max_new_tokens=4, **fields)


def devices_of(attempt: AttemptRecord) -> list[str]:
    return [device["uuid"] for place in attempt.allocations for device in place.devices]


def waiting_message(service: Deployment, job_id: str) -> str:
    def look() -> str | None:
        job = service.job(job_id)
        return job.waiting["message"] if job.waiting else None

    return wait_for("the reason why it waits", look)


def test_two_jobs_at_once_get_different_devices_and_see_only_their_own(service: Deployment) -> None:
    service.start_worker("pair", slots="4", devices=gpus("pair", 24, 24))
    both = [endless(service), endless(service)]
    for job_id in both:
        service.wait_for_progress(job_id, "training")
    used = [devices_of(service.attempts(job_id)[0]) for job_id in both]
    assert sorted(used) == [["GPU-pair-0"], ["GPU-pair-1"]]
    third = endless(service)
    message = waiting_message(service, third)
    assert message.startswith("needs 1 idle device with")
    assert any(f"{job_id} holds 24.00 GiB" in message for job_id in both)
    service.cancel(both[0])
    service.wait_for_progress(third, "training")
    assert devices_of(service.attempts(third)[0]) == used[0]
    assert service.job(third).waiting is None
    for job_id in (both[1], third):
        service.cancel(job_id)
        service.wait(job_id, "cancelled")
    for job_id, (uuid,) in zip(both, used, strict=True):
        shown = [line for line in service.printed(job_id) if line.startswith("CUDA_VISIBLE_DEVICES")]
        assert shown == [f"CUDA_VISIBLE_DEVICES={uuid}"]


def test_small_jobs_share_a_device_by_memory(service: Deployment) -> None:
    service.start_worker("one", slots="4", devices=gpus("one", 24))
    share = {"device_memory_bytes": 10 * GIB, "share": True}
    first, second = endless(service, resources=share), endless(service, resources=share)
    for job_id in (first, second):
        service.wait_for_progress(job_id, "training")
    third = endless(service, resources=share)
    assert "4.00 GiB free" in waiting_message(service, third)
    places = [place for job_id in (first, second) for place in service.attempts(job_id)[0].allocations]
    assert [device["reserved_bytes"] for place in places for device in place.devices] == [10 * GIB] * 2
    for job_id in (first, second, third):
        service.cancel(job_id)
        service.wait(job_id, "cancelled")


def test_a_job_larger_than_any_device_is_rejected_with_numbers(service: Deployment) -> None:
    service.start_worker("small", devices=gpus("small", 8))
    with pytest.raises(AssertionError, match=r"needs at least 9\.00 GiB of memory, but the largest device, on small"):
        generate(service, resources={"device_memory_bytes": 9 * GIB})


def test_a_drained_worker_hands_over_its_job_without_counting(service: Deployment) -> None:
    service.start_worker("leaving", devices=gpus("leaving", 24))
    job_id = endless(service, max_attempts=1)
    service.wait_for_progress(job_id, "training")
    service.start_worker("staying", devices=gpus("staying", 24))
    with service.database.writing() as connection:
        workers.drain(connection, "leaving", 0, service.settings)

    def moved() -> JobRecord | None:
        job = service.job(job_id)
        return job if job.attempt_count == 2 and job.state == "running" else None

    job = wait_for("the job to move", moved)
    assert job.charged_attempts == 0
    assert [attempt.state for attempt in service.attempts(job_id)] == ["released", "running"]
    assert service.attempts(job_id)[1].worker_id == "staying"
    folder = service.settings.home / "artifacts" / "jobs" / job_id / service.attempts(job_id)[0].id
    assert list((folder / "checkpoints").glob("checkpoint-*"))  # though save_steps were never reached
    service.wait_for_progress(job_id, "training")
    service.cancel(job_id)
    service.wait(job_id, "cancelled")


def test_labels_choose_the_worker(service: Deployment) -> None:
    service.start_worker("a", labels="room=a")
    service.start_worker("b", labels="room=b")
    job_id = generate(service, resources={"labels": {"room": "b"}})
    service.wait(job_id)
    assert service.attempts(job_id)[0].worker_id == "b"
    unknown = generate(service, resources={"labels": {"room": "c"}})
    assert waiting_message(service, unknown) == "no active worker has the labels room=c"


def test_a_job_goes_to_the_device_where_its_model_is_loaded(service: Deployment) -> None:
    service.start_worker("pair", slots="4", devices=gpus("pair", 24, 24))
    other = endless(service)
    service.wait_for_progress(other, "training")
    first = generate(service)
    service.wait(first)
    service.cancel(other)
    service.wait(other, "cancelled")
    assert [devices_of(service.attempts(each)[0]) for each in (other, first)] == [["GPU-pair-0"], ["GPU-pair-1"]]

    def loaded() -> bool:
        with service.database.reading() as connection:
            return any(worker.models for worker in workers.list_alive(connection, service.settings))

    wait_for("the model to be reported", loaded)
    second = generate(service)
    service.wait(second)
    assert devices_of(service.attempts(second)[0]) == ["GPU-pair-1"]
    exclusive = endless(service), endless(service)  # the resident gives its device back
    for job_id in exclusive:
        service.wait_for_progress(job_id, "training")
    for job_id in exclusive:
        service.cancel(job_id)
        service.wait(job_id, "cancelled")


def test_a_runner_has_none_of_the_services_variables(service: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("BAICHUAN_API_KEY", "secret")
    process = service.start_worker("one")
    job_id = endless(service)
    service.wait_for_progress(job_id, "training")
    inherited = [environment_of(pid) for pid in descendants(process.pid)]
    assert len(inherited) >= 2  # the fork server and the runner
    for names in inherited:
        assert "PATH" in names
        assert not {name for name in names if name.startswith(("BAICHUAN", "DATABASE", "REDIS", "ARTIFACT", "AWS"))}
    service.cancel(job_id)
    service.wait(job_id, "cancelled")


def environment_of(pid: int) -> set[str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {os.fsdecode(entry.partition(b"=")[0]) for entry in entries if entry}


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [below for child in children for below in descendants(child)]
