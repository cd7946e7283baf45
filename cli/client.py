"""The HTTP client used by the commands; every failure becomes one readable line with the right exit code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from baichuan_client.call import Call, Params
from baichuan_client.calls import read_as_is, request_json, upload_file
from baichuan_client.endpoint import Endpoint
from baichuan_client.pages import Pages
from baichuan_client.session import Session
from baichuan_client.transfers import Download, open_upload
from cli.problems import translate_client_errors


class Client:
    """A client for one service; requests that can safely be sent again are retried during short outages."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = endpoint.url
        with translate_client_errors():
            self._session = Session(endpoint)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self._session.close()

    def get(self, path: str, params: Params | None = None) -> Any:
        """Return the JSON of a GET response."""
        return self._call(request_json("GET", path, params))

    def post(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, params: Params | None = None
    ) -> Any:
        """Return the JSON of a POST response; the request is retried only if it has an Idempotency-Key."""
        return self._call(request_json("POST", path, params, body, headers))

    def delete(self, path: str) -> None:
        """Send a DELETE request."""
        self.request("DELETE", path)

    def list_items(self, path: str, params: Params | None = None, *, most: int | None = None) -> Iterator[Any]:
        """Yield up to `most` items of a list, fetching the list page by page."""
        with translate_client_errors():
            yield from self._session.iterate(Pages(path, read_as_is, params, most))

    def request(
        self, method: str, path: str, *, params: Params | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a request and return the successful response.

        Raises:
            CommandError: The service rejects the request, fails, or does not respond.
        """
        with translate_client_errors():
            return self._session.send(request_json(method, path, params, headers=headers))

    @contextmanager
    def post_stream(self, path: str, body: Any, timeout: httpx.Timeout) -> Iterator[httpx.Response]:
        """Send a POST request and yield the successful response, to be read in chunks."""
        with (
            translate_client_errors(),
            self._session.stream(Call("POST", path, read_as_is, body=body, timeout=timeout)) as response,
        ):
            yield response

    def upload(self, path: Path, purpose: str) -> Any:
        """Upload a file in chunks, and return the JSON of the file object."""
        with open_upload(path) as content:
            return self._call(upload_file(path.name, content, purpose, read_as_is))

    def fetch(self, download: Download) -> Path:
        """Download a file and return its path."""
        with translate_client_errors():
            return self._session.fetch(download)

    def _call(self, call: Call[Any]) -> Any:
        with translate_client_errors():
            return self._session.call(call)
