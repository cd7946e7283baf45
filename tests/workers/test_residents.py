"""Runners that keep their model loaded: their reuse, and when they end."""

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_checkpoint import make_tiny_checkpoint
from jobs.service import deletions, workers
from tests.cli.shell import descendants
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from tests.workers.test_control import is_gone, runner_of

pytestmark = pytest.mark.alone  # every test starts a worker

CLOCK: dict[str, Any] = {"lease_seconds": 30, "heartbeat_seconds": 0.5, "backoff_seconds": 0}
ENDLESS: dict[str, Any] = {"prompts": ["a"] * 64, "max_new_tokens": 400}  # long enough to do something meanwhile
numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Deployment]:
    """A deployment with one worker, `w`."""
    home = tmp_path_factory.mktemp("residents")
    with deployment(home / "home", redis_server, model_roots=str(home / "models"), **CLOCK) as made:
        make_tiny_checkpoint(home / "models" / "a")
        make_tiny_checkpoint(home / "models" / "b", seed=1)
        made.start_dispatcher()
        made.start_worker("w")
        yield made


@dataclass
class Service:
    """The deployment, with two models that no other test uses."""

    deployment: Deployment
    a: str
    b: str

    def folder(self, model: str) -> Path:
        """Return the directory of a model."""
        return self.deployment.home.parent / "models" / model

    def generate(self, model: str, **fields: Any) -> str:
        """Submit a short job."""
        spec = {"prompts": ["你好", "hello"], "max_new_tokens": 8, "temperature": 0, **fields}
        return self.deployment.submit(kind="generate", model=model, **spec)

    def run(self, model: str, **fields: Any) -> str:
        """Run a short job to its end."""
        return self.deployment.wait(self.generate(model, **fields)).id

    def completions(self, job_id: str) -> bytes:
        """Return what a job wrote."""
        return self.deployment.read(self.deployment.artifacts(job_id)["completions.jsonl"])

    def loaded(self, worker: str = "w") -> list[dict[str, Any]]:
        """Return what the worker reported lately of this test's models."""
        with self.deployment.database.reading() as connection:
            alive = workers.list_alive(connection, self.deployment.settings)
        models = next(each.models for each in alive if each.id == worker)
        return [dict(each) for each in models if each["id"] in (self.a, self.b)]

    def group(self, job_id: str) -> int:
        """Return the process group that ran a job's last attempt."""
        return runner_of(self.deployment, self.deployment.attempts(job_id)[-1].worker_id, job_id)

    def delete(self, model: str) -> None:
        """Delete a model."""
        with self.deployment.database.writing() as connection:
            deletions.delete_model(connection, self.deployment.project_id, model)

    @contextmanager
    def worker(self, name: str, **settings: str) -> Iterator[dict[str, Any]]:
        """Start another worker; jobs with the fields that are yielded run on it."""
        self.deployment.start_worker(name, labels=f"name={name}", kinds="generate", **settings)
        try:
            yield {"resources": {"labels": {"name": name}}}
        finally:
            if name in self.deployment.running:
                self.deployment.end(name)


@pytest.fixture
def service(shared: Deployment) -> Service:
    """Two models of its own for each test."""
    number = next(numbers)
    made = Service(shared, f"a{number}", f"b{number}")
    for model in (made.a, made.b):
        shutil.copytree(made.folder(model[0]), made.folder(model))
        shared.register(model, made.folder(model))
    return made


def test_the_second_job_starts_warm_and_gives_the_same_bytes(service: Service) -> None:
    cold, other = service.run(service.a), service.run(service.b)
    warm = service.run(service.a)
    assert service.group(cold) == service.group(warm) != service.group(other)
    assert service.completions(cold) == service.completions(warm) != service.completions(other)
    assert service.deployment.printed(cold) == service.deployment.printed(warm)


def test_evaluations_and_quality_reports_use_the_model_of_a_generation(service: Service, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A queue has two ends. " * 60, encoding="utf-8")
    deployed, a = service.deployment, service.a
    data = deployed.upload(text, "text").id
    evaluation = {"kind": "evaluate", "model": a, "benchmark": "perplexity", "data_file": data}
    first = service.run(a)
    evaluated = deployed.wait(deployed.submit(**evaluation))
    again = service.run(a)
    quantized = deployed.wait(deployed.submit(kind="quantize", model=a, method="int8")).id
    assert {service.group(each) for each in (evaluated.id, again, quantized)} == {service.group(first)}
    assert service.completions(first) == service.completions(again)
    assert service.group(service.run(quantized)) == service.group(first)  # what the report measured last is loaded
    cold = deployed.wait(deployed.submit(**evaluation))
    assert service.group(cold.id) != service.group(first)
    assert cold.result == evaluated.result


def test_another_precision_or_an_adapter_is_another_model(service: Service, conversations: Path) -> None:
    deployed, a = service.deployment, service.a
    data = deployed.upload(conversations, "fine-tune").id
    training = {"training_file": data, "method": "lora", "epochs": 1, "max_length": 64}
    adapter = deployed.wait(deployed.submit(kind="finetune", model=a, **training)).id
    wait_for("the end of its runner", lambda: is_gone(service.group(adapter)))
    jobs = [service.run(a), service.run(a, dtype="float32"), service.run(a, adapter=adapter), service.run(adapter)]
    groups = [service.group(each) for each in jobs]
    assert len(set(groups)) == 3
    assert groups[2] == groups[3]
    assert [service.group(service.run(a)), service.group(service.run(a, dtype="float32"))] == groups[:2]


def test_workers_report_what_they_keep_loaded(service: Service) -> None:
    deployed, a, b = service.deployment, service.a, service.b
    service.run(a)
    service.run(b, dtype="float32")
    wait_for("both models", lambda: len(service.loaded()) == 2)
    assert [(each["id"], each["dtype"], each["engine"], each["busy"]) for each in service.loaded()] == [
        (a, "auto", "transformers", False),
        (b, "float32", "transformers", False),
    ]
    assert all(each["devices"][0]["bytes"] > 2**20 for each in service.loaded())
    long = service.generate(a, **ENDLESS)
    wait_for("a to be busy", lambda: [each["id"] for each in service.loaded() if each["busy"]] == [a])
    deployed.cancel(long)
    deployed.wait(long, "cancelled")
    wait_for("a to be gone", lambda: [each["id"] for each in service.loaded()] == [b])
    wait_for("the end of the runner", lambda: is_gone(service.group(long)))


def test_a_resident_ends_when_nothing_uses_it(service: Service) -> None:
    with service.worker("brief", keep_seconds="1") as there:
        job_id = service.run(service.a, **there)
        wait_for("the end of the resident", lambda: is_gone(service.group(job_id)))
        assert "it has been idle for too long" in service.deployment.log_of("brief")


def test_nothing_is_kept_if_residents_are_disabled(service: Service) -> None:
    with service.worker("plain", keep_seconds="0") as there:
        job_id = service.run(service.a, **there)
        wait_for("the end of the runner", lambda: is_gone(service.group(job_id)))
        assert "resident" not in service.deployment.log_of("plain")


def test_idle_residents_end_while_the_machine_is_short_of_memory(service: Service) -> None:
    with service.worker("tight", memory_reserve_bytes=str(2**60)) as there:
        job_id = service.run(service.a, **there)
        wait_for("the end of the resident", lambda: is_gone(service.group(job_id)))
        assert "short of memory" in service.deployment.log_of("tight")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_resident_outlives_its_worker(service: Service, number: signal.Signals) -> None:
    with service.worker(f"mortal-{number}") as there:
        groups = [service.group(service.run(model, **there)) for model in (service.a, service.b)]
        assert not any(is_gone(each) for each in groups)
        service.deployment.end(f"mortal-{number}", number)
        wait_for("the end of the residents", lambda: all(is_gone(each) for each in groups))


def test_residents_make_room_for_a_job_that_needs_their_memory(service: Service, conversations: Path) -> None:
    """The fine-tuning job reserves so much of the host's memory that both residents no longer fit beside it.

    One of them may stay: what a resident holds, and so whether one is enough, depends on the jobs that it has run.
    """
    deployed = service.deployment
    kept = [service.run(service.a), service.run(service.b)]
    data = deployed.upload(conversations, "fine-tune").id
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resources = {"device_memory_bytes": host - 2**30, "share": True}
    training = {"method": "full", "epochs": 1, "max_length": 64, "resources": resources}
    deployed.submit(kind="finetune", model=service.a, training_file=data, max_attempts=1, **training)
    wait_for("the end of a resident", lambda: any(is_gone(service.group(each)) for each in kept))
    assert "needs the memory" in deployed.log_of("w")


def test_a_worker_that_is_drained_keeps_nothing(service: Service) -> None:
    job_id = service.run(service.a)
    with service.deployment.database.writing() as connection:
        workers.drain(connection, "w", None, service.deployment.settings)
    wait_for("the end of the resident", lambda: is_gone(service.group(job_id)))
    wait_for("an empty report", lambda: service.loaded() == [])
    with service.deployment.database.writing() as connection:
        workers.undrain(connection, "w", service.deployment.settings)
    wait_for("a resident again", lambda: bool(service.run(service.a)) and bool(service.loaded()))


def test_a_resident_that_is_killed_is_replaced(service: Service) -> None:
    deployed = service.deployment
    idle = service.group(service.run(service.a))
    os.killpg(idle, signal.SIGKILL)
    after = service.run(service.a)
    assert service.group(after) != idle
    assert [attempt.state for attempt in deployed.attempts(after)] == ["succeeded"]
    busy = service.generate(service.a, **ENDLESS)
    deployed.wait_for_progress(busy, "generating")
    assert service.group(busy) == service.group(after)
    os.killpg(service.group(busy), signal.SIGKILL)
    assert deployed.wait(busy).charged_attempts == 1
    assert deployed.attempts(busy)[1].state == "succeeded"
    assert service.group(busy) != service.group(after)


def test_a_resident_survives_only_failures_caused_by_the_user(service: Service) -> None:
    deployed = service.deployment
    first = service.group(service.run(service.a))
    wrong = deployed.wait(service.generate(service.a, prompts=["word " * 2000]), "failed")
    assert wrong.error is not None
    assert wrong.error["code"] == "prompt"
    assert [service.group(wrong.id), service.group(service.run(service.a))] == [first, first]
    late = deployed.wait(service.generate(service.a, timeout_seconds=1, **ENDLESS), "failed")
    assert service.group(late.id) == first
    wait_for("the end of the resident", lambda: is_gone(first))
    assert service.group(service.run(service.a)) != first


def test_cancelling_a_job_ends_its_resident(service: Service) -> None:
    first = service.group(service.run(service.a))
    job_id = service.generate(service.a, **ENDLESS)
    service.deployment.wait_for_progress(job_id, "generating")
    service.deployment.cancel(job_id)
    service.deployment.wait(job_id, "cancelled")
    assert service.group(job_id) == first
    wait_for("the end of the resident", lambda: is_gone(first))


def test_a_changed_model_is_never_served_from_memory(service: Service) -> None:
    before, other = service.run(service.a), service.run(service.b)
    for file in service.folder(service.a).glob("*.safetensors"):
        shutil.copyfile(service.folder(service.b) / file.name, file)
    after = service.run(service.a)
    assert service.group(after) == service.group(before)
    assert service.completions(after) == service.completions(other) != service.completions(before)


def test_a_resident_of_a_deleted_model_ends_and_a_model_of_the_same_name_is_another_one(service: Service) -> None:
    first, other = service.run(service.a), service.run(service.b)
    service.delete(service.a)
    wait_for("the end of the resident", lambda: is_gone(service.group(first)))
    assert "has been deleted or replaced" in service.deployment.log_of("w")
    assert not is_gone(service.group(other))
    service.deployment.register(service.a, service.folder(service.b))
    assert service.completions(service.run(service.a)) == service.completions(other)


def test_a_gguf_model_stays_loaded_in_llama_cpp(service: Service) -> None:
    deployed = service.deployment
    file = deployed.wait(deployed.submit(kind="convert", model=service.a, target="gguf")).id
    first, second = service.run(file), service.run(file)
    assert service.group(first) == service.group(second)
    assert service.completions(first) == service.completions(second)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_leaks_over_two_hundred_jobs(service: Service) -> None:
    """Two residents alternate in running jobs, some of which fail; memory, descriptors and processes do not grow."""
    deployed, both = service.deployment, (service.a, service.b)
    worker = deployed.running["w"].pid

    def run_some(count: int) -> None:
        for number in range(count):
            wrong = number % 10 == 9
            fields = {"prompts": ["word " * 2000]} if wrong else {}
            deployed.wait(service.generate(both[number % 2], **fields), "failed" if wrong else "succeeded")

    def measure() -> dict[int, tuple[int, int]]:
        residents = [service.group(service.run(model)) for model in both]
        return {
            pid: (anonymous_bytes(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))) for pid in (worker, *residents)
        }

    run_some(20)
    before, processes = measure(), len(descendants(worker))
    run_some(200)
    after = measure()
    assert after.keys() == before.keys()
    assert len(descendants(worker)) <= processes
    for pid, (memory, files) in after.items():
        assert memory < before[pid][0] + 32 * 2**20
        assert files <= before[pid][1] + 2


def anonymous_bytes(pid: int) -> int:
    """Return the anonymous memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
