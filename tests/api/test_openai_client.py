"""The official `openai` client works with /v1/files and /v1/models."""

from collections.abc import Iterator
from typing import get_args

import openai
import pytest
import sqlalchemy as sa
from openai.types import FilePurpose

from tests.api.conftest import ADMIN_KEY, Api

TEXTS = b'{"text": "0123"}\n' * 20


@pytest.fixture
def client(api: Api) -> Iterator[openai.OpenAI]:
    """The client with strict validation of responses."""
    with openai.OpenAI(
        base_url=f"{api.url}/v1", api_key=ADMIN_KEY, max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


def test_files(client: openai.OpenAI) -> None:
    made = client.files.create(file=("训练.jsonl", TEXTS), purpose="fine-tune")
    assert (made.filename, made.bytes, made.status) == ("训练.jsonl", 340, "processed")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == TEXTS
    for _ in range(4):
        client.files.create(file=b"{}", purpose="batch")
    assert len([file.id for file in client.files.list(limit=2)]) == 5
    assert [file.id for file in client.files.list(purpose="fine-tune")] == [made.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(made.id)
    assert (caught.value.code, caught.value.param) == ("not_found", "file_id")
    assert "GET /v1/files" in caught.value.message


def test_every_purpose_can_be_listed(client: openai.OpenAI, api: Api) -> None:
    purposes: tuple[FilePurpose, ...] = get_args(FilePurpose)
    made = [client.files.create(file=b"{}", purpose=purpose) for purpose in purposes]
    ours = api.client.post("/v1/files", data={"purpose": "prompts"}, files={"file": ("p.jsonl", b"{}")}).json()
    with api.database.writing() as connection:  # as earlier releases stored it
        connection.execute(sa.text("UPDATE files SET purpose = 'prompts' WHERE id = :id"), {"id": ours["id"]})
    newest_first = [ours["id"], *(file.id for file in reversed(made))]
    assert [file.id for file in client.files.list(limit=10_000)] == newest_first
    assert [file.id for file in client.files.list(order="asc", limit=2)] == newest_first[::-1]
    assert [file.id for file in client.files.list(order="desc", limit=2)] == newest_first
    shown = {file.id: file.purpose for file in client.files.list()}
    assert [shown[file.id] for file in made] == ["assistants", "batch", "fine-tune", "vision", "user_data", "user_data"]
    assert shown[ours["id"]] == "user_data"
    assert ours["id"] in [file.id for file in client.files.list(purpose="user_data")]
    assert ours["id"] in [file.id for file in client.files.list(purpose="prompts")]


def test_files_expire_and_are_deleted_while_they_are_listed(client: openai.OpenAI) -> None:
    made = client.files.create(
        file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 2_592_000}
    )
    assert made.expires_at == made.created_at + 2_592_000
    for _ in range(4):
        client.files.create(file=b"{}", purpose="batch")
    for file in client.files.list(limit=2):
        client.files.delete(file.id)
    assert client.files.list().data == []
    with pytest.raises(openai.BadRequestError) as wrong:
        client.files.create(file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 1})
    assert wrong.value.param == "expires_after[seconds]"


def test_models(client: openai.OpenAI, api: Api) -> None:
    api.register_model("team/base")
    assert [model.id for model in client.models.list()] == ["team/base"]
    model = client.models.retrieve("team/base")
    assert (model.object, model.owned_by) == ("model", "default")
    assert model.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_errors(client: openai.OpenAI, api: Api) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.files.create(file=b"{}", purpose="porpoise")  # type: ignore[arg-type] # the mistake
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
