"""Runners that keep their model loaded: who uses them, and when they end."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_checkpoint import make_tiny_checkpoint
from jobs.records import WorkerRecord
from jobs.service import deletions, workers
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from tests.workers.test_control import is_gone, runner_of

CLOCK: dict[str, Any] = {"lease_seconds": 30, "heartbeat_seconds": 0.5, "backoff_seconds": 0}


@pytest.fixture
def service(tmp_path: Path, redis_server: RedisServer) -> Iterator[Deployment]:
    """A deployment with two models, `a` and `b`; the tests start its worker, `w`."""
    folder = tmp_path / "models"
    with deployment(tmp_path / "home", redis_server, model_roots=str(folder), **CLOCK) as made:
        for seed, name in enumerate("ab"):
            made.register(name, make_tiny_checkpoint(folder / name, seed=seed))
        made.start_dispatcher()
        yield made


def generate(service: Deployment, model: str = "a", **fields: Any) -> str:
    """A short job."""
    spec = {"prompts": ["你好", "hello"], "max_new_tokens": 8, "temperature": 0, **fields}
    return service.submit(kind="generate", model=model, **spec)


def run(service: Deployment, model: str = "a", **fields: Any) -> str:
    """Run a short job to its end."""
    return service.wait(generate(service, model, **fields)).id


def completions(service: Deployment, job_id: str) -> bytes:
    return service.read(service.artifacts(job_id)["completions.jsonl"])


def loaded(service: Deployment) -> list[dict[str, Any]]:
    """What the worker reported lately."""
    with service.database.reading() as connection:
        found: list[WorkerRecord] = workers.list_alive(connection, service.settings)
    return [dict(each) for each in found[0].models]


def group(service: Deployment, job_id: str) -> int:
    """The process group that ran a job."""
    return runner_of(service, "w", job_id)


def test_the_second_job_starts_warm_and_gives_the_same_bytes(service: Deployment) -> None:
    service.start_worker("w")
    cold, other = run(service), run(service, "b")
    warm = run(service)
    assert group(service, cold) == group(service, warm) != group(service, other)
    assert completions(service, cold) == completions(service, warm) != completions(service, other)


def test_an_evaluation_and_a_quality_report_use_the_model_of_a_generation(service: Deployment, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A queue has two ends. " * 60, encoding="utf-8")
    evaluation = {
        "kind": "evaluate",
        "model": "a",
        "benchmark": "perplexity",
        "data_file": service.upload(text, "t").id,
    }
    service.start_worker("w")
    first = run(service)
    evaluated = service.wait(service.submit(**evaluation))
    again = run(service)
    quantized = service.wait(service.submit(kind="quantize", model="a", method="int8")).id
    assert {group(service, each) for each in (first, evaluated.id, again, quantized)} == {group(service, first)}
    assert completions(service, first) == completions(service, again)
    # What the report measured last is loaded now.
    assert group(service, run(service, quantized)) == group(service, first)
    cold = group(service, service.wait(service.submit(**evaluation)).id)
    assert cold != group(service, first)
    assert service.job(evaluated.id).result == service.wait(service.submit(**evaluation)).result


def test_another_precision_or_an_adapter_is_another_model(service: Deployment, conversations: Path) -> None:
    service.start_worker("w")
    training = {"training_file": service.upload(conversations, "fine-tune").id, "max_length": 64}
    adapter = service.wait(service.submit(kind="finetune", model="a", method="lora", epochs=1, **training)).id
    jobs = [run(service), run(service, dtype="float32"), run(service, adapter=adapter), run(service, adapter)]
    groups = [group(service, each) for each in jobs]
    assert len(set(groups)) == 3
    assert groups[2] == groups[3]
    assert [group(service, run(service)), group(service, run(service, dtype="float32"))] == groups[:2]


def test_workers_report_what_they_keep_loaded(service: Deployment) -> None:
    service.start_worker("w")
    run(service)
    run(service, "b", dtype="float32")
    wait_for("both models", lambda: len(loaded(service)) == 2)
    both = loaded(service)
    assert [(each["id"], each["dtype"], each["engine"], each["busy"]) for each in both] == [
        ("a", "auto", "transformers", False),
        ("b", "float32", "transformers", False),
    ]
    assert all(each["devices"][0]["bytes"] > 2**20 for each in both)
    long = generate(service, prompts=["a"] * 64, max_new_tokens=400)
    wait_for("a to be busy", lambda: [each["id"] for each in loaded(service) if each["busy"]] == ["a"])
    service.cancel(long)
    service.wait(long, "cancelled")
    wait_for("a to be gone", lambda: [each["id"] for each in loaded(service)] == ["b"])


def test_a_resident_ends_when_nothing_uses_it(service: Deployment) -> None:
    service.start_worker("w", keep_seconds="1")
    job_id = run(service)
    wait_for("the end of the resident", lambda: is_gone(group(service, job_id)))
    assert "nothing has used it" in service.log_of("w")


def test_nothing_is_kept_if_the_operator_says_so(service: Deployment) -> None:
    service.start_worker("w", keep_seconds="0")
    job_id = run(service)
    wait_for("the end of the runner", lambda: is_gone(group(service, job_id)))
    assert loaded(service) == []


def test_residents_make_room_for_a_job_that_needs_their_memory(service: Deployment, conversations: Path) -> None:
    """The fine-tune reserves almost all of the host's memory, which the tiny models do not leave free."""
    service.start_worker("w")
    kept = [run(service), run(service, "b")]
    data = service.upload(conversations, "fine-tune").id
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resources = {"device_memory_bytes": host - 2**30, "share": True}
    training = {"method": "full", "epochs": 1, "max_length": 64}
    service.wait(service.submit(kind="finetune", model="a", training_file=data, resources=resources, **training))
    assert all(is_gone(group(service, each)) for each in kept)
    assert "needs the memory" in service.log_of("w")


def test_idle_residents_end_while_the_machine_is_short_of_memory(service: Deployment) -> None:
    service.start_worker("w", memory_reserve_bytes=str(2**60))
    job_id = run(service)
    wait_for("the end of the resident", lambda: is_gone(group(service, job_id)))
    assert "short of memory" in service.log_of("w")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_resident_outlives_its_worker(service: Deployment, number: signal.Signals) -> None:
    service.start_worker("w")
    kept = [run(service), run(service, "b")]
    groups = [group(service, each) for each in kept]
    assert not any(is_gone(each) for each in groups)
    service.end("w", number)
    wait_for("the end of the residents", lambda: all(is_gone(each) for each in groups), seconds=10)


def test_a_worker_that_is_drained_keeps_nothing(service: Deployment) -> None:
    service.start_worker("w")
    job_id = run(service)
    with service.database.writing() as connection:
        workers.drain(connection, "w", None, service.settings)
    wait_for("the end of the resident", lambda: is_gone(group(service, job_id)))
    assert loaded(service) == []
    with service.database.writing() as connection:
        workers.undrain(connection, "w", service.settings)
    wait_for("a resident again", lambda: bool(run(service)) and bool(loaded(service)))


def test_a_resident_that_is_killed_is_replaced(service: Deployment) -> None:
    service.start_worker("w")
    idle = group(service, run(service))
    os.killpg(idle, signal.SIGKILL)
    after = generate(service)
    service.wait(after)
    assert group(service, after) != idle
    assert service.job(after).charged_attempts == 0
    assert len(service.attempts(after)) == 1
    busy = generate(service, prompts=["a"] * 64, max_new_tokens=400)
    service.wait_for_progress(busy, "generating")
    assert group(service, busy) == group(service, after)
    os.killpg(group(service, busy), signal.SIGKILL)
    job = service.wait(busy)
    first, second = service.attempts(busy)
    assert (first.state, second.state, job.charged_attempts) == ("failed", "succeeded", 1)
    found = re.findall(rf"{second.id}: runs as process group (\d+)", service.log_of("w"))
    assert found != [str(group(service, after))]


def test_a_resident_survives_the_users_failure_and_no_other(service: Deployment) -> None:
    service.start_worker("w")
    first = group(service, run(service))
    wrong = service.wait(generate(service, prompts=["word " * 2000]), "failed")
    assert wrong.error is not None
    assert wrong.error["code"] == "prompt"
    assert group(service, wrong.id) == first
    assert group(service, run(service)) == first
    late = service.wait(generate(service, prompts=["a"] * 64, max_new_tokens=400, timeout_seconds=1), "failed")
    assert group(service, late.id) == first
    wait_for("the end of the resident", lambda: is_gone(first))
    assert group(service, run(service)) != first


def test_output_of_one_attempt_is_not_in_the_log_of_another(service: Deployment, conversations: Path) -> None:
    service.start_worker("w")
    first = run(service)
    second = run(service)
    assert service.printed(first) == service.printed(second)
    stages = [[event.data["stage"] for event in service.events(each, "progress")] for each in (first, second)]
    assert all(each[-1] == "publishing" for each in stages)


def test_a_changed_model_is_never_served_from_memory(service: Deployment, tmp_path: Path) -> None:
    service.start_worker("w")
    folder = tmp_path / "models" / "a"
    before, other = run(service), run(service, "b")
    for file in folder.glob("*.safetensors"):
        shutil.copyfile(tmp_path / "models" / "b" / file.name, file)
    after = run(service)
    assert group(service, after) == group(service, before)
    assert completions(service, after) == completions(service, other) != completions(service, before)


def test_a_resident_of_a_deleted_model_ends(service: Deployment) -> None:
    service.start_worker("w")
    job_id = run(service)
    delete(service, "a")
    wait_for("the end of the resident", lambda: is_gone(group(service, job_id)))
    assert "was deleted or replaced" in service.log_of("w")


def test_a_model_of_the_same_name_is_another_one(service: Deployment, tmp_path: Path) -> None:
    service.start_worker("w")
    first, other = run(service), run(service, "b")
    delete(service, "a")
    service.register("a", tmp_path / "models" / "b")
    second = run(service)
    assert group(service, second) != group(service, first)
    assert completions(service, second) == completions(service, other)


def test_a_cancelled_job_takes_its_resident_along(service: Deployment) -> None:
    service.start_worker("w")
    first = group(service, run(service))
    job_id = generate(service, prompts=["a"] * 64, max_new_tokens=400)
    service.wait_for_progress(job_id, "generating")
    service.cancel(job_id)
    service.wait(job_id, "cancelled")
    assert group(service, job_id) == first
    wait_for("the end of the resident", lambda: is_gone(first))
    assert group(service, run(service)) != first


def test_runners_of_other_kinds_end_with_their_job(service: Deployment, conversations: Path) -> None:
    service.start_worker("w")
    data = service.upload(conversations, "fine-tune").id
    job_id = service.submit(kind="finetune", model="a", training_file=data, method="lora", epochs=1, max_length=64)
    service.wait(job_id)
    wait_for("the end of the runner", lambda: is_gone(group(service, job_id)))
    assert loaded(service) == []


def delete(service: Deployment, model: str) -> None:
    with service.database.writing() as connection:
        deletions.delete_model(connection, service.project_id, model)
