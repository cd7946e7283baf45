"""Jobs through the sync client."""

import threading
import uuid
from collections.abc import Callable, Mapping

import pytest

from baichuan_client import ApiError, Client, Job, JobCancelledError, JobFailedError
from jobs.results import JobProgress
from jobs.specs import GenerateSpec
from tests.baichuan_client.conftest import MODEL, SPEC
from tests.cli.hand_worker import HandWorker


def test_a_typed_spec_with_labels(client: Client) -> None:
    spec = GenerateSpec(kind="generate", model=MODEL, prompts=["x"], top_k=3, labels={"a": "1"})
    job = client.jobs.submit(spec, labels={"b": "2"})
    assert (job.state, job.kind, job.source_model, job.is_final) == ("queued", "generate", MODEL, False)
    assert job.spec is not None
    assert (job.spec["top_k"], job.labels) == (3, {"a": "1", "b": "2"})
    assert job.requirements is not None
    found = client.jobs.get(job.id)
    assert (found.id, found.spec, found.created_at) == (job.id, job.spec, job.created_at)


def test_an_idempotency_key_makes_one_job(client: Client) -> None:
    key = str(uuid.uuid4())
    assert client.jobs.submit(SPEC, idempotency_key=key).id == client.jobs.submit(SPEC, idempotency_key=key).id
    with pytest.raises(ApiError) as refused:
        client.jobs.submit({**SPEC, "seed": 1}, idempotency_key=key)
    assert (refused.value.status, refused.value.code) == (409, "idempotency_conflict")


def test_wait_returns_the_job_that_succeeded(client: Client, worker: HandWorker) -> None:
    job = client.jobs.submit(SPEC)
    waiting = threading.Thread(target=job.wait)
    waiting.start()
    worker.succeed(job.id, worker.begin(job.id), {})
    waiting.join(60)
    assert (job.state, job.is_final, job.error) == ("succeeded", True, None)
    assert job.wait(timeout=0) is job


def test_wait_raises_the_error_of_a_job_that_failed(client: Client, worker: HandWorker) -> None:
    job = client.jobs.submit(SPEC)
    worker.fail(worker.begin(job.id), "out_of_memory", "the model does not fit; use nf4")
    with pytest.raises(JobFailedError, match=f"generate job {job.id} failed: out_of_memory: the model") as failed:
        job.wait()
    assert (failed.value.code, failed.value.message) == ("out_of_memory", "the model does not fit; use nf4")
    assert failed.value.job is job
    assert job.retry().state == "queued"
    assert job.error is None


def test_wait_raises_for_a_cancelled_job(client: Client) -> None:
    job = client.jobs.submit(SPEC)
    assert job.cancel() is job
    assert job.state == "cancelled"
    with pytest.raises(JobCancelledError, match=job.id):
        client.jobs.get(job.id).wait()
    job.delete()
    with pytest.raises(ApiError) as unknown:
        job.refresh()
    assert unknown.value.status == 404


def test_wait_gives_up_when_the_time_is_up(client: Client) -> None:
    job = client.jobs.submit(SPEC)
    with pytest.raises(TimeoutError, match=r"has not ended after 0\.01 s"):
        job.wait(timeout=0.01)


def test_stream_brings_all_events_of_a_job(client: Client, worker: HandWorker) -> None:
    job = client.jobs.submit(SPEC)
    seen = []
    attempt = ""
    for event in job.stream():
        seen.append((event.type, event.data.get("to")))
        match event.type, event.data.get("to"):
            case "state", "queued":
                attempt = worker.begin(job.id)
            case "state", "running":
                worker.report(attempt, 0.5, {"loss": 1.5}, "a line")
            case "log", _:
                assert event.data["lines"] == ["a line"]
                assert job.refresh().progress == JobProgress(fraction=0.5, stage="training", metrics={"loss": 1.5})
                worker.succeed(job.id, attempt, {})
            case _:
                pass
    states = [state for kind, state in seen if kind == "state"]
    assert states == ["queued", "dispatched", "running", "succeeded"]
    assert [kind for kind, _ in seen].count("log") == 1
    assert [event.type for event in job.stream(only="log")] == ["log"]
    (last,) = job.stream(after=len(seen) - 1)
    assert list(job.stream(after=last.sequence)) == []
    assert job.logs() == "a line\n"


def test_lists_continue_over_pages(client: Client) -> None:
    label = {"set": uuid.uuid4().hex}
    made = [client.jobs.submit(SPEC, labels=label).id for _ in range(103)]
    found = client.jobs.list(label=f"set:{label['set']}")
    first = next(found)
    assert (first.id, first.spec) == (made[-1], None)
    assert [job.id for job in found] == made[-2::-1]
    assert len(list(client.jobs.list(label=f"set:{label['set']}", limit=101))) == 101
    assert list(client.jobs.list(limit=0)) == []
    first.refresh()
    assert first.spec is not None


def test_pause_and_resume_of_a_fine_tune(client: Client, data_file: str) -> None:
    file = client.files.upload(data_file, "fine-tune")
    job = client.jobs.submit({"kind": "finetune", "model": MODEL, "training_file": file.id})
    assert [job.pause().state, job.resume().state, job.cancel().state] == ["paused", "queued", "cancelled"]


def test_results_are_objects_of_their_kind(client: Client, finish: Callable[[Mapping[str, bytes]], Job]) -> None:
    job = finish({})
    assert job.result == {}  # the worker of these tests reports nothing, as an older version might
