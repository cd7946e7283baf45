"""Fine-tuning on several devices and machines, with real dispatchers, workers, runners and ranks."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from examples.tiny_checkpoint import CONVERSATIONS
from jobs.records import JobDetails
from tests.system.declared_devices import gpus, running_pool
from tests.workers.deployment import Deployment, wait_for

TOLERANCE = {"ddp": 3e-7, "fsdp2": 3e-7, "zero2": 3e-7, "zero3": 1.4e-5}

PATIENCE = 250  # each attempt starts new ranks, whose imports take long on a busy machine

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with a tiny model and a dispatcher; tests start the workers."""
    with running_pool(tmp_path) as running:
        yield running


def train(service: Deployment, **fields: Any) -> str:
    data = service.upload(CONVERSATIONS, "fine-tune").id
    training = {"training_file": data, "epochs": 2, "max_length": 64, "lora_dropout": 0.0, "packing": False}
    return service.submit(kind="finetune", model="tiny", **{**training, **fields})


def adapter(service: Deployment, job: JobDetails) -> dict[str, torch.Tensor]:
    return load(service.read(service.artifacts(job.id)["model/adapter_model.safetensors"]))


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def ranks_of(service: Deployment) -> list[int]:
    """Return the processes that train for the jobs of this deployment."""
    logs = "".join(service.log_of(name) for name in ("a", "b"))
    groups = {int(group) for group in re.findall(r"runs as process group (\d+)", logs)}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if b"rank_main" in command and os.getpgid(int(entry.name)) in groups:
                    found.append(int(entry.name))
    return sorted(found)


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_two_devices_train_the_same_as_one(service: Deployment, strategy: str) -> None:
    service.start_worker("pair", slots="2", devices=gpus("pair", 24, 24))
    alone = service.wait(train(service, batch_size=2), "succeeded", seconds=PATIENCE)
    both = service.wait(
        train(service, batch_size=1, strategy=strategy, resources={"devices": 2}), "succeeded", seconds=PATIENCE
    )
    assert alone.result is not None
    assert both.result is not None
    assert both.result["steps"] == alone.result["steps"]
    assert abs(both.result["final_loss"] - alone.result["final_loss"]) < 1e-5
    assert difference(adapter(service, alone), adapter(service, both)) < TOLERANCE[strategy]


def test_two_machines_train_the_same_as_one(service: Deployment) -> None:
    for name in ("a", "b"):
        service.start_worker(name, devices=gpus(name, 24))
    alone = service.wait(train(service, batch_size=2), "succeeded", seconds=PATIENCE)
    both = service.wait(train(service, batch_size=1, hostfile="a slots=1\nb slots=1"), "succeeded", seconds=PATIENCE)
    (attempt,) = service.attempts(both.id)
    assert [place.worker_id for place in attempt.allocations] == ["a", "b"]
    assert difference(adapter(service, alone), adapter(service, both)) < TOLERANCE["ddp"]
    assert "adapter_config.json" in {Path(path).name for path in service.artifacts(both.id)}


@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_killed_worker_ends_the_attempt_everywhere_and_it_continues(service: Deployment, victim: str) -> None:
    for name in ("a", "b"):
        service.start_worker(name, devices=gpus(name, 24))
    job_id = train(service, batch_size=1, epochs=30, save_steps=1, resources={"nodes": 2})
    service.wait_for_progress(job_id, "training")
    service.end(victim, signal.SIGKILL)
    wait_for("the attempt to end", lambda: service.attempts(job_id)[0].finished_at)
    wait_for("its ranks to be gone", lambda: not ranks_of(service))
    service.start_worker(victim, devices=gpus(victim, 24))
    job = service.wait(job_id, "succeeded", seconds=PATIENCE)
    assert len(service.attempts(job_id)) == 2
    assert job.result is not None
    assert job.result["resumed_from_step"] > 0


def test_a_killed_rank_ends_the_attempt_everywhere_and_it_continues(service: Deployment) -> None:
    for name in ("a", "b"):
        service.start_worker(name, devices=gpus(name, 24))
    job_id = train(service, batch_size=1, epochs=30, save_steps=1, resources={"nodes": 2})
    service.wait_for_progress(job_id, "training")
    os.kill(ranks_of(service)[0], signal.SIGKILL)
    job = service.wait(job_id, "succeeded", seconds=PATIENCE)
    first, _ = service.attempts(job_id)
    assert first.error is not None
    assert first.error["code"] in ("rank_failed", "runner_died")
    assert job.result is not None
    assert job.result["resumed_from_step"] > 0


def test_draining_one_machine_pauses_the_job_on_both(service: Deployment) -> None:
    for name in ("a", "b"):
        service.start_worker(name, devices=gpus(name, 24), drain_seconds="30")
    job_id = train(service, batch_size=1, epochs=30, save_steps=1000, resources={"nodes": 2})
    service.wait_for_progress(job_id, "training")
    service.end("b", signal.SIGTERM)
    service.start_worker("b", devices=gpus("b", 24))
    job = service.wait(job_id, "succeeded", seconds=PATIENCE)
    assert job.charged_attempts <= 1
    assert job.result is not None
    assert job.result["resumed_from_step"] > 0
