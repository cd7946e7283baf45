"""The official `openai` client talks to /v1/files and /v1/models as if they were OpenAI's."""

from collections.abc import Iterator

import openai
import pytest

from tests.api.conftest import ADMIN_KEY, Api


@pytest.fixture
def client(api: Api) -> Iterator[openai.OpenAI]:
    """The client, which refuses answers that are not of the documented form."""
    with openai.OpenAI(
        base_url=f"{api.url}/v1", api_key=ADMIN_KEY, max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


def test_files(client: openai.OpenAI) -> None:
    made = client.files.create(file=("训练.jsonl", b"{}\n" * 100), purpose="fine-tune")
    assert (made.filename, made.bytes, made.status) == ("训练.jsonl", 300, "processed")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == b"{}\n" * 100
    for _ in range(4):
        client.files.create(file=b"{}", purpose="batch")
    assert len([file.id for file in client.files.list(limit=2)]) == 5
    assert [file.id for file in client.files.list(purpose="fine-tune")] == [made.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(made.id)
    assert (caught.value.code, caught.value.param) == ("not_found", "file_id")
    assert "GET /v1/files" in caught.value.message


def test_models(client: openai.OpenAI, api: Api) -> None:
    api.register_model("team/base")
    assert [model.id for model in client.models.list()] == ["team/base"]
    model = client.models.retrieve("team/base")
    assert (model.object, model.owned_by) == ("model", "default")
    assert model.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_errors(client: openai.OpenAI, api: Api) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.files.create(file=b"{}", purpose="vision")
    assert (wrong.value.param, wrong.value.type) == ("purpose", "invalid_request_error")
    assert "must be one of" in wrong.value.message
    with pytest.raises(openai.APIStatusError) as large:
        client.files.create(file=bytes(api.settings.max_upload_bytes + 100_000), purpose="batch")
    assert (large.value.status_code, large.value.code) == (413, "too_large")
    with pytest.raises(openai.AuthenticationError) as stranger:
        client.with_options(api_key="wrong").models.list()
    assert "unknown or revoked" in stranger.value.message


def test_a_permanent_conflict_is_not_repeated(client: openai.OpenAI, api: Api) -> None:
    api.register_model()
    job = api.submit()["id"]
    asked = 0

    def count(_request: object) -> None:
        nonlocal asked
        asked += 1

    client._client.event_hooks["request"] = [count]
    with pytest.raises(openai.ConflictError):
        client.with_options(max_retries=2).post(f"/jobs/{job}/retry", cast_to=object)
    assert asked == 1
