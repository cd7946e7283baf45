"""Errors of the client: what they say, and what they carry."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from baichuan_client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    ConfigurationError,
    InvalidInputError,
    InvalidResponseError,
    UnreachableError,
)
from tests.baichuan_client.conftest import MODEL, SPEC


def test_a_rejection_has_the_fields_of_its_problem_document(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        client.jobs.submit({**SPEC, "model": "nope"})
    error = refused.value
    assert isinstance(error, ClientError)
    assert (error.status, error.code, error.title, error.param) == (422, "unknown_model", "Unknown model", "model")
    assert error.detail.startswith("there is no model 'nope'")
    assert str(error) == f"model: {error.detail} (status 422)"
    with pytest.raises(ApiError) as refused:
        client.models.register("etc", "/etc")
    assert refused.value.code == "path_not_allowed"


def test_models(client: Client) -> None:
    model = client.models.get(MODEL)
    assert model in list(client.models.list())
    assert model.path is not None
    assert client.models.register("again", model.path).id == "again"
    client.models.delete("again")
    with pytest.raises(ApiError) as gone:
        client.models.get("again")
    assert gone.value.status == 404
    assert client.request("GET", "/v1/models", params={"limit": 1, "after": None})["data"][0]["id"] == MODEL


def test_a_wrong_key(client: Client) -> None:
    with Client(api_key="wrong") as stranger, pytest.raises(ApiError) as refused:
        stranger.jobs.get("job-1")
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")


def test_nobody_listens() -> None:
    with Client("http://127.0.0.1:9", "key") as client, pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        client.jobs.get("job-1")


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        (None, "key", "set BAICHUAN_URL"),
        ("http://127.0.0.1:9", None, "set BAICHUAN_API_KEY"),
        ("127.0.0.1:9", "key", "must begin with http"),
        ("http://host:port", "key", "cannot be used"),
        ("http://127.0.0.1:9", "ключ", "copy it again"),
    ],
)
def test_an_endpoint_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, url: str | None, key: str | None, message: str
) -> None:
    monkeypatch.delenv("BAICHUAN_URL", raising=False)
    monkeypatch.delenv("BAICHUAN_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=message):
        Client(url, key)


class SomethingElse(BaseHTTPRequestHandler):
    """A server that answers with a page, or fails without a problem document."""

    def do_GET(self) -> None:
        self.send_response(500 if self.path.endswith("broken") else 200)
        self.end_headers()
        self.wfile.write(b"<html>" if "page" in self.path else b'{"object": "something else"}')

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def something_else() -> Iterator[str]:
    """The address of another server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SomethingElse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_server_answers(something_else: str) -> None:
    with Client(f"{something_else}/v1/", "key") as client:
        for job in ("page", "json"):
            with pytest.raises(InvalidResponseError, match="did not return the expected JSON"):
                client.jobs.get(job)
        with pytest.raises(ApiError) as broken:
            client.jobs.get("broken")
    assert (broken.value.status, broken.value.code) == (500, "")
    assert str(broken.value) == "Internal Server Error (status 500)"


UNSENDABLE_SPECS: list[tuple[dict[str, Any], str]] = [
    ({"prompts": ["a", "\ud800"]}, r"prompts\[1\] contains an unpaired surrogate; write"),
    ({"labels": {"\ud800": "a"}}, r"the key '\\ud800' of labels contains an unpaired surrogate; write"),
    ({"temperature": math.nan}, "temperature is nan; JSON has only finite numbers"),
    ({"stop": {"a"}}, "stop is a set, which JSON cannot represent; use"),
]


@pytest.fixture(params=["sync", "async"])
def submit(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The method of each client that submits a job; nothing listens at its address."""

    def submit(*args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            with Client("http://127.0.0.1:9", "key") as client:
                return client.jobs.submit(*args, **kwargs)

        async def run() -> Any:
            async with AsyncClient("http://127.0.0.1:9", "key") as client:
                return await client.jobs.submit(*args, **kwargs)

        return asyncio.run(run())

    return submit


@pytest.mark.parametrize(("fields", "message"), UNSENDABLE_SPECS)
def test_a_spec_that_cannot_be_encoded(submit: Callable[..., Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        submit({**SPEC, **fields})


@pytest.mark.parametrize("key", ["a\nb", "ключ", "é", " a", "a "])
def test_an_idempotency_key_that_cannot_be_sent(submit: Callable[..., Any], key: str) -> None:
    with pytest.raises(InvalidInputError, match=r"'Idempotency-Key' has the value .*; use only printable ASCII"):
        submit(SPEC, idempotency_key=key)


def test_other_values_that_cannot_be_sent(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    loop: list[Any] = []
    loop.append(loop)
    with Client("http://127.0.0.1:9", "key") as client:
        calls: list[tuple[Callable[[], Any], str]] = [
            (lambda: client.jobs.get("\ud800"), "the id or path"),
            (lambda: next(client.jobs.list(label="\ud800")), "label contains an unpaired surrogate"),
            (lambda: client.files.upload(tmp_path / "a", "\ud800"), "POST '/v1/files' cannot be sent"),
            (lambda: client.request("GET", "/v1/\ud800"), "cannot be sent"),
            (lambda: client.request("GET", "/v1/\n"), "cannot be sent"),
            (lambda: client.request("GET", "/v1/jobs", headers={"a b": "c"}), "the header 'a b'"),
            (lambda: client.request("POST", "/v1/jobs", body=loop), "cannot be sent"),
            (lambda: client.request("POST", "/v1/jobs", body=math.inf), "the body is inf"),
        ]
        for call, message in calls:
            with pytest.raises(InvalidInputError, match=message):
                call()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Client("http://\ud800", "key")
