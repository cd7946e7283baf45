"""Fine-tuning on several devices and machines, with real dispatchers, workers, runners and ranks."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network_namespaces import connected_machines
from tests.system.declared_devices import gpus, running_pool
from tests.system.gangs import PATIENCE, TOLERANCE, adapter, difference, train
from tests.workers.deployment import Deployment

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with a tiny model and a dispatcher; tests start the workers."""
    with running_pool(tmp_path) as running:
        yield running


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


def test_draining_one_machine_pauses_the_job_on_both(service: Deployment) -> None:
    for name in ("a", "b"):
        service.start_worker(name, devices=gpus(name, 24), drain_seconds="30")
    job_id = train(service, batch_size=1, epochs=30, save_steps=1000, resources={"nodes": 2})
    service.wait_for_progress(job_id, "training", PATIENCE)
    service.end("b", signal.SIGTERM)
    service.start_worker("b", devices=gpus("b", 24))
    job = service.wait(job_id, "succeeded", seconds=PATIENCE)
    assert job.charged_attempts <= 1
    assert job.result is not None
    assert job.result["resumed_from_step"] > 0


def test_two_network_namespaces_train_what_one_process_trains(tmp_path: Path) -> None:
    """Only the network connects the ranks; SQLite and the artifact store are a file system that both machines share."""
    with connected_machines() as network, running_pool(tmp_path, network.address) as service:
        for name, machine in zip(("a", "b"), network.machines, strict=True):
            service.start_worker(name, prefix=machine.prefix, devices=gpus(name, 24))
        alone = service.wait(train(service, batch_size=2), "succeeded", seconds=PATIENCE)
        both = service.wait(
            train(service, batch_size=1, strategy="ddp", resources={"nodes": 2}), "succeeded", seconds=PATIENCE
        )
        (attempt,) = service.attempts(both.id)
        assert [place.worker_id for place in attempt.allocations] == ["a", "b"]
        assert str(attempt.allocations[0].address).startswith(f"{network.machines[0].address}:")
        assert difference(adapter(service, alone), adapter(service, both)) < TOLERANCE["ddp"]
