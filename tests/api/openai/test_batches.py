"""`client.batches`; the worker's part is tested elsewhere, with real models."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel, ValidationError

from api.openai.completion_bodies import ChatBody, TextBody
from jobs.inputs import check_file
from jobs.state import Event
from tests.api.conftest import Api, serving, small
from tests.api.openai.conftest import batch_file, client_of, lines, request_line
from tests.jobs.pool import hold
from workers.handlers.batch_files import ERROR_FILE, OUTPUT_FILE

RESULT = {
    "requests": 2,
    "completions": 2,
    "resumed": 0,
    "prompt_tokens": 10,
    "completion_tokens": 6,
    "generated_tokens": 6,
    "seconds": 1.0,
    "tokens_per_second": 6.0,
    "engine": "transformers",
    "engine_reason": "it is there",
    "rejected": 1,
}


def test_from_creation_to_completion(client: openai.OpenAI, api: Api) -> None:
    file = batch_file(client)
    batch = client.batches.create(
        input_file_id=file,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"purpose": "nightly"},
        extra_body={"baichuan": {"engine": "transformers", "priority": 5, "max_new_tokens": 9}},
    )
    assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", "/v1/chat/completions")
    assert (batch.input_file_id, batch.model, batch.metadata) == (file, "base", {"purpose": "nightly"})
    assert (batch.output_file_id, batch.error_file_id, batch.errors, batch.usage) == (None, None, None, None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 0, "failed": 0}
    job = api.client.get(f"/v1/jobs/{batch.id}").json()
    assert (job["kind"], job["priority"], job["spec"]["max_new_tokens"]) == ("generate", 5, 9)
    assert job["spec"]["batch"] == {"endpoint": "/v1/chat/completions", "model": "base"}
    with pytest.raises(openai.ConflictError, match="is used by"):
        client.files.delete(file)

    attempt = api.start(batch.id)
    api.report(attempt, progress={"fraction": 0.5, "stage": "generating", "metrics": {"requests_done": 1.0}})
    running = client.batches.retrieve(batch.id)
    assert running.status == "in_progress"
    assert running.request_counts is not None
    assert running.request_counts.completed == 1
    api.report(attempt, progress={"fraction": 1.0, "stage": "writing", "metrics": {}})
    assert client.batches.retrieve(batch.id).status == "finalizing"
    api.finish(batch.id, attempt, {OUTPUT_FILE: b'{"a": 1}\n', ERROR_FILE: b'{"b": 1}\n'}, RESULT)
    done = client.batches.retrieve(batch.id)
    assert done.status == "completed"
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    assert client.files.content(done.output_file_id).text == '{"a": 1}\n'
    assert client.files.content(done.error_file_id).text == '{"b": 1}\n'
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (10, 6, 16)
    assert done.completed_at is not None
    assert done.in_progress_at is not None


def test_cancelling_failing_and_listing(client: openai.OpenAI, api: Api) -> None:
    file = batch_file(client)
    made = [
        client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h").id
        for _ in range(3)
    ]
    api.submit(kind="generate", input_file=file)
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    waiting = client.batches.cancel(made[0])
    assert (waiting.status, waiting.cancelled_at is None) == ("cancelled", False)
    api.start(made[1])
    assert client.batches.cancel(made[1]).status == "cancelling"
    attempt = api.start(made[2])
    with api.database.writing() as connection:
        hold(connection, attempt, "wrk-1", api.settings).end(Event.FAIL, {"code": "timeout", "message": "too slow"})
    failed = client.batches.retrieve(made[2])
    assert (failed.status, failed.failed_at is None) == ("failed", False)
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert (failed.errors.data[0].code, failed.errors.data[0].message) == ("timeout", "too slow")
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(made[2])
    for unknown in ("job-none", api.submit(kind="generate", prompts=["x"])["id"]):
        with pytest.raises(openai.NotFoundError) as caught:
            client.batches.retrieve(unknown)
        assert caught.value.param == "batch_id"


def test_text_completions(client: openai.OpenAI) -> None:
    item = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "base", "prompt": "x"}}
    file = client.files.create(file=lines([item]), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    assert batch.endpoint == "/v1/completions"
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert caught.value.param == "endpoint"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input_file_id": "file-" + "0" * 26}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
        ({"extra_body": {"other": 1}}, "other"),
        ({"extra_body": {"baichuan": {"engine": "llama_cpp"}}}, "baichuan.engine"),
        ({"extra_body": {"baichuan": {"engine": "tgi"}}}, "baichuan.engine"),
        ({"extra_body": {"baichuan": {"adapter": "nobody"}}}, "baichuan.adapter"),
        ({"extra_body": {"baichuan": {"prompts": ["x"]}}}, "baichuan.prompts"),
        ({"extra_body": {"baichuan": {"batch": None}}}, "baichuan.batch"),
    ],
)
def test_an_unsupported_parameter_is_a_400_that_names_it(
    refusing_client: openai.OpenAI, changes: dict[str, Any], param: str
) -> None:
    client = refusing_client
    given = {"input_file_id": batch_file(client), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(**{**given, **changes})
    assert caught.value.param == param
    assert list(client.batches.list()) == []


@pytest.mark.parametrize("fields", [{"prompts": ["x"]}, {"logprobs": 1}, {"kind": "generate"}, {"model": "base"}])
def test_fields_that_no_parameter_sets(refusing_client: openai.OpenAI, fields: dict[str, Any]) -> None:
    given: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "extra_body": {"baichuan": fields}}
    with pytest.raises(openai.BadRequestError, match=r"cannot be set here; remove it"):
        refusing_client.batches.create(input_file_id=batch_file(refusing_client), **given)


CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 0.5, -1, "", "x", "auto", "default", "none", "medium", [], ["x"], [1], ["text"], {}),
    *({"type": "text"}, {"type": "json_object"}, {"a": "b"}, {"": "b"}, {"a": 1}, {"a" * 65: ""}, {"5": 1}, "\ud800"),
]
PART = {"type": "text", "text": "x"}
MESSAGES: list[Any] = [
    *([{"role": "user", "content": content}] for content in ("x", [PART], [PART, PART], [], [{**PART, "a": 1}], None)),
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    [{"role": "developer", "content": "x"}, {"role": "assistant", "content": "x", "tool_calls": [], "refusal": None}],
    [{"role": "tool", "content": "x"}],
]
# Values that a chat or text completion accepts and a batch does not; see docs/openai.md.
DIFFERENCES: list[tuple[str, Any]] = [
    *((name, value) for name in ("stream", "logprobs") for value in (True, 0, 1, 2)),
    ("baichuan", {}),
    ("prompt", ["x", "y"]),
]


@pytest.mark.parametrize(
    ("url", "source", "model"),
    [(CHAT_URL, {"messages": MESSAGES[0]}, ChatBody), (TEXT_URL, {"prompt": "x"}, TextBody)],
)
def test_a_batch_accepts_what_the_route_accepts(
    tmp_path: Path, url: str, source: dict[str, Any], model: type[BaseModel]
) -> None:
    names = {*ChatBody.model_fields, *TextBody.model_fields, "unknown", "max_new_tokens"}
    candidates = [(name, value) for name in sorted(names) for value in (*VALUES, *MESSAGES, ["x", "y"])]
    file = tmp_path / "batch.jsonl"
    for name, value in candidates:
        body = {"model": "m", **source, name: value}
        file.write_bytes(json.dumps({"custom_id": "a", "method": "POST", "url": url, "body": body}).encode())
        try:
            model.model_validate(body)
            is_accepted = True
        except ValidationError:
            is_accepted = False
        result = check_file(file, "batch")
        if is_accepted and any((name, value) == other and type(value) is type(other[1]) for other in DIFFERENCES):
            assert result.status == "error", (name, value)
        else:
            assert (result.status == "processed") == is_accepted, (name, value, result.details)


def test_neutral_values_in_a_batch_file(client: openai.OpenAI) -> None:
    neutral = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "service_tier": "auto"}
    bodies = [neutral, {"messages": MESSAGES[1]}, {"messages": MESSAGES[7]}]
    content = lines([request_line(str(number), **body) for number, body in enumerate(bodies)])
    file = client.files.create(file=content, purpose="batch")
    assert (file.status, file.status_details) == ("processed", None)
    given: Any = {"endpoint": CHAT_URL, "completion_window": "24h"}
    assert client.batches.create(input_file_id=file.id, **given).status == "validating"


def test_files_that_are_not_batches(client: openai.OpenAI) -> None:
    def refusal(content: bytes, purpose: Any) -> openai.BadRequestError:
        file = client.files.create(file=content, purpose=purpose)
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        return caught.value

    wrong_line = refusal(lines([request_line("a"), request_line("a")]), "batch")
    assert "line 2: custom_id is 'a', which line 1 already uses" in wrong_line.message
    assert wrong_line.param == "input_file_id"
    assert "has the purpose 'user_data'" in refusal(lines([request_line("a")]), "user_data").message
    assert refusal(lines([request_line("a", model="nobody")]), "batch").param == "model"


def test_a_dry_run_creates_nothing(client: openai.OpenAI) -> None:
    extra = {"baichuan": {"dry_run": True}}
    batch: Any = client.batches.create(
        input_file_id=batch_file(client), endpoint="/v1/chat/completions", completion_window="24h", extra_body=extra
    )
    assert (batch.id, batch.baichuan["queue_position"]) == ("dry-run", 1)
    assert batch.request_counts.total == 3
    assert list(client.batches.list()) == []


def test_fifty_thousand_lines(tmp_path: Path) -> None:
    message = [{"role": "user", "content": "x"}]
    items = [{**request_line(str(number)), "body": {"model": "base", "messages": message}} for number in range(50_000)]
    with serving(small(tmp_path / "home", max_upload_bytes=50_000_000)) as api, client_of(api, strict=True) as client:
        api.register_model()
        file = client.files.create(file=lines(items), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        assert batch.request_counts is not None
        assert batch.request_counts.total == 50_000
