"""If a response is lost, the client retries without an Idempotency-Key, and only one object is created."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.api.conftest import Api
from tests.api.openai.answer_dropping_proxy import AnswerDroppingProxy, answer_dropping_proxy
from tests.api.openai.conftest import EXAMPLES, batch_file, client_of, lines


@pytest.fixture
def proxy(api: Api) -> Iterator[AnswerDroppingProxy]:
    """A proxy in front of the API, which has the model `base`."""
    api.register_model()
    with answer_dropping_proxy(api.url) as running:
        yield running


@pytest.fixture
def client(api: Api, proxy: AnswerDroppingProxy) -> Iterator[openai.OpenAI]:
    """The client with default settings, behind the proxy."""
    with client_of(api, strict=True, url=proxy.url, max_retries=2) as made:
        yield made


def fine_tune(client: openai.OpenAI, file: str) -> str:
    return client.fine_tuning.jobs.create(model="base", training_file=file, suffix="mine").id


def batch(client: openai.OpenAI, file: str) -> str:
    return client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h").id


@pytest.mark.parametrize("answers", [1, 2])
def test_files(client: openai.OpenAI, proxy: AnswerDroppingProxy, answers: int) -> None:
    proxy.drop_next_answers(answers)
    made = client.files.create(file=lines(EXAMPLES), purpose="fine-tune")
    assert proxy.dropped == answers
    assert [file.id for file in client.files.list()] == [made.id]
    assert client.files.content(made.id).read() == lines(EXAMPLES)
    again = client.files.create(file=lines(EXAMPLES), purpose="fine-tune")
    assert again.id != made.id


@pytest.mark.parametrize("answers", [1, 2])
@pytest.mark.parametrize("make", [fine_tune, batch])
def test_jobs_and_batches(
    client: openai.OpenAI, api: Api, proxy: AnswerDroppingProxy, make: Callable[[Any, str], str], answers: int
) -> None:
    file = (
        client.files.create(file=lines(EXAMPLES), purpose="fine-tune").id if make is fine_tune else batch_file(client)
    )
    before = make(client, file)  # an equal request that was answered
    proxy.drop_next_answers(answers)
    made = make(client, file)
    assert proxy.dropped == answers
    assert made != before
    assert [job["id"] for job in api.client.get("/v1/jobs").json()["data"]] == [made, before]


def test_uploads(client: openai.OpenAI, proxy: AnswerDroppingProxy) -> None:
    upload = client.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"abc")
    proxy.drop_next_answers()
    done = client.uploads.complete(upload.id, part_ids=[part.id])
    assert proxy.dropped == 1
    assert done.file is not None
    assert [file.id for file in client.files.list()] == [done.file.id]


def test_a_request_with_different_content_is_not_a_retry(client: openai.OpenAI, api: Api) -> None:
    file = client.files.create(file=lines(EXAMPLES), purpose="fine-tune").id
    first = fine_tune(client, file)
    headers = {"x-stainless-retry-count": "1"}
    other = client.fine_tuning.jobs.create(model="base", training_file=file, suffix="other", extra_headers=headers)
    assert other.id != first
    repeated = client.fine_tuning.jobs.create(model="base", training_file=file, suffix="mine", extra_headers=headers)
    assert repeated.id == first
    later = client.fine_tuning.jobs.create(model="base", training_file=file, suffix="mine", extra_headers=headers)
    assert later.id != first  # the first request has already been retried
    odd = {"x-stainless-retry-count": "many", "x-stainless-read-timeout": "nan"}
    assert client.fine_tuning.jobs.create(model="base", training_file=file, extra_headers=odd).id
