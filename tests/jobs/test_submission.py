"""Submission: accepted jobs are complete, retries return the same job, and invalid ones do not affect others."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from jobs.errors import (
    IdempotencyConflictError,
    InvalidRequestError,
    NameTakenError,
    UnknownFileError,
    UnknownModelError,
)
from jobs.records import JobFilter, ModelRecord
from jobs.repository import models
from jobs.service import jobs as service
from jobs.service.jobs import JobKey
from jobs.service.submission import Submission, SubmittedJob, submit
from jobs.specs import SPEC_ADAPTER, QuantizeSpec
from tests.jobs.conftest import Deployment


def test_a_job_comes_with_its_first_event_its_labels_and_the_name_of_its_result(deployment: Deployment) -> None:
    job = deployment.submit(labels={"team": "a", "stage": "x"}, output_model="small", priority=3)
    key = JobKey(deployment.project_id, job.id)
    with deployment.database.writing() as connection:
        (event,) = service.list_events(connection, key, after=0, limit=10)
        labelled = service.list_page(
            connection, deployment.project_id, JobFilter(label=("team", "a")), after=None, limit=10
        )
        again = submit(connection, [deployment.submission(output_model="small")])[0]
    assert (event.sequence, event.type, event.data["to"]) == (1, "state", "queued")
    assert [found.id for found in labelled] == [job.id]
    assert isinstance(again, NameTakenError)


def test_a_pulled_model_is_made_from_no_other(deployment: Deployment) -> None:
    spec = SPEC_ADAPTER.validate_python({"kind": "pull", "repository": "baichuan-inc/Tiny", "output_model": "tiny"})
    with deployment.database.writing() as connection:
        first, second = submit(connection, [Submission(deployment.project_id, spec) for _ in range(2)])
        made = models.get_many(connection, deployment.project_id, ["tiny"])["tiny"]
    assert isinstance(first, SubmittedJob)
    assert (first.job.source_model, first.job.output_model) == ("baichuan-inc/Tiny", "tiny")
    assert (made.state, made.base, made.job_id) == ("pending", None, first.job.id)
    assert isinstance(second, NameTakenError)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("repository", name)
            for name in ("tiny", "a/b/c", "a/..", "../b", "a/b--c", "a /b", "https://hub/a/b", "a/b\n")
        ),
        *(("revision", name) for name in ("", "..", "a/../b", "a b", "-a", "x" * 129)),
    ],
)
def test_names_that_no_hub_has_are_refused(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=field):
        SPEC_ADAPTER.validate_python({"kind": "pull", "repository": "a/b", field: value})


def test_the_same_key_gives_the_same_job_and_another_request_is_refused(deployment: Deployment) -> None:
    with deployment.database.writing() as connection:
        first, same, other = submit(
            connection,
            [
                deployment.submission("once"),
                deployment.submission("once"),
                deployment.submission("once", method="int8"),
            ],
        )
        later = submit(connection, [deployment.submission("once")])[0]
    assert isinstance(first, SubmittedJob)
    assert isinstance(same, SubmittedJob)
    assert isinstance(later, SubmittedJob)
    assert first.created
    assert not same.created
    assert first.job.id == same.job.id == later.job.id
    assert isinstance(other, IdempotencyConflictError)


def test_a_retry_does_not_conflict_with_the_name_of_its_result(deployment: Deployment) -> None:
    with deployment.database.writing() as connection:
        answers = submit(connection, [deployment.submission("once", output_model="small") for _ in range(2)])
        answers += submit(connection, [deployment.submission("once", output_model="small")])
        rival = submit(connection, [deployment.submission("other", output_model="small")])[0]
    assert [answer.created for answer in answers if isinstance(answer, SubmittedJob)] == [True, False, False]
    assert isinstance(rival, NameTakenError)


def test_only_generating_jobs_run_gguf_files(deployment: Deployment) -> None:
    record = ModelRecord(deployment.project_id, "small", "gguf", "ready", "base", None, "/models/gguf", None, {}, 1)
    with deployment.database.writing() as connection:
        models.add(connection, record)
        (refused,) = submit(connection, [deployment.submission(model="small")])
    assert isinstance(refused, InvalidRequestError)
    assert refused.param == "model"
    assert "only generate and serve jobs can run; use the checkpoint it was made from, 'base'" in str(refused)
    assert deployment.submit(kind="generate", model="small", prompts=["a"]).state == "queued"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "llama", "gguf_type": "f16"}, "gguf_type requires the target 'gguf', but the target is 'llama'"),
        ({"target": "gguf", "dtype": "float32"}, "dtype requires the target 'merged' or 'dequantized'"),
        ({"target": "gguf", "adapter": "lora"}, "adapter requires the target 'merged'"),
    ],
)
def test_options_of_a_conversion_require_their_target(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SPEC_ADAPTER.validate_python({"kind": "convert", "model": "base", **fields})


def test_no_job_accepts_a_model_in_the_format_of_llama(deployment: Deployment) -> None:
    record = ModelRecord(deployment.project_id, "small", "llama", "ready", "base", None, "/models/llama", None, {}, 1)
    cases: list[dict[str, Any]] = [{}, {"kind": "generate", "prompts": ["a"]}]
    with deployment.database.writing() as connection:
        models.add(connection, record)
        refused = submit(connection, [deployment.submission(model="small", **fields) for fields in cases])
    assert all("is in Llama format, for use with other programs; use the checkpoint" in str(each) for each in refused)


def test_a_request_is_recognised_by_a_release_with_other_fields_and_defaults() -> None:
    class NextRelease(QuantizeSpec):
        method: Literal["int8", "nf4", "fp4"] = "int8"
        new_field: int = 7

    sent: dict[str, Any] = {"kind": "quantize", "model": "base", "quantize_head": True}
    digest = Submission("proj-1", QuantizeSpec(**sent)).request_digest
    assert Submission("proj-1", NextRelease(**sent)).request_digest == digest
    assert Submission("proj-1", QuantizeSpec(**{**sent, "quantize_head": False})).request_digest != digest


def test_a_refused_request_leaves_its_key_unused(deployment: Deployment) -> None:
    with deployment.database.writing() as connection:
        refused, accepted = submit(
            connection, [deployment.submission("once", model="missing"), deployment.submission("once")]
        )
    assert isinstance(refused, UnknownModelError)
    assert isinstance(accepted, SubmittedJob)
    assert accepted.created


@pytest.mark.parametrize("output_model", [None, "small"])
def test_many_clients_with_one_key_make_one_job(deployment: Deployment, output_model: str | None) -> None:
    def client(_number: int) -> SubmittedJob:
        with deployment.database.writing() as connection:
            answer = submit(connection, [deployment.submission("shared", output_model=output_model)])[0]
        assert isinstance(answer, SubmittedJob)
        return answer

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(client, range(24)))
    assert len({answer.job.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1


def test_invalid_submissions_do_not_affect_the_others_of_their_batch(deployment: Deployment) -> None:
    unknown_file = "file-" + "0" * 26
    with deployment.database.writing() as connection:
        answers = submit(
            connection,
            [
                deployment.submission(model="missing"),
                deployment.submission(output_model="mine"),
                deployment.submission(output_model="mine"),
                deployment.submission(kind="finetune", training_file=unknown_file),
                deployment.submission(output_model="base"),
                deployment.submission(),
            ],
        )
    expected = [UnknownModelError, SubmittedJob, NameTakenError, UnknownFileError, NameTakenError, SubmittedJob]
    assert [type(answer) for answer in answers] == expected
    assert answers[0].param == "model"  # type: ignore[union-attr]
    assert "POST /v1/files" in str(answers[3])


def test_another_project_sees_neither_job_nor_model(deployment: Deployment) -> None:
    job = deployment.submit()
    with deployment.database.reading() as connection:
        (answer,) = service.find(connection, [JobKey("proj-other", job.id)])
        assert service.list_page(connection, "proj-other", JobFilter(), after=None, limit=10) == []
    assert type(answer).__name__ == "NotFoundError"


def test_pages_walk_all_jobs_newest_first(deployment: Deployment) -> None:
    made = [deployment.submit().id for _ in range(7)]
    walked: list[str] = []
    with deployment.database.reading() as connection:
        while page := service.list_page(
            connection, deployment.project_id, JobFilter(), after=walked[-1] if walked else None, limit=3
        ):
            walked += [job.id for job in page]
    assert walked == made[::-1]


@pytest.mark.parametrize(
    ("fields", "where", "says"),
    [
        ({"kind": "quantise"}, ("kind",), "Input tag 'quantise'"),
        ({"bits": 4}, ("bits",), "Extra inputs are not permitted"),
        ({"max_attempts": 0}, ("max_attempts",), "greater than or equal to 1"),
        ({"timeout_seconds": 10**9}, ("timeout_seconds",), "less than or equal to 2592000"),
        ({"kind": "generate"}, (), "exactly one of prompts, conversations and input_file; found none"),
        ({"kind": "generate", "prompts": ["a"], "temperature": 9}, ("temperature",), "less than or equal to 2"),
        ({"model": "../secret"}, ("model",), "should match pattern"),
        ({"model": "a//b"}, ("model",), "should match pattern"),
        ({"labels": {"a b": "c"}}, ("labels", "a b"), "should match pattern"),
    ],
)
def test_specs_name_the_field_and_the_limit(fields: dict[str, object], where: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SPEC_ADAPTER.validate_python({"kind": "quantize", "model": "base", **fields})
    (error,) = caught.value.errors()
    assert says in error["msg"]
    assert not where or where[-1] in [str(part) for part in error["loc"]] or error["type"] == "union_tag_invalid"
