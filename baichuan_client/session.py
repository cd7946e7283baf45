"""Sends requests and reads responses; every failure is raised as a `ClientError`."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from baichuan_client.call import Call
from baichuan_client.endpoint import DEFAULT_TIMEOUT_SECONDS, Endpoint
from baichuan_client.errors import ApiError, UnreachableError
from baichuan_client.pages import Pages
from baichuan_client.retry_state import RetryState
from baichuan_client.transfers import CHUNK_BYTES, Download

T = TypeVar("T")


class Session:
    """Connections to one service."""

    def __init__(self, endpoint: Endpoint, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Prepare connections; none is opened yet.

        Raises:
            ConfigurationError: The address cannot be parsed.
        """
        self.url = endpoint.url
        self._http = httpx.Client(**endpoint.http_options(timeout))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def send(self, call: Call[Any]) -> httpx.Response:
        """Send a request and return the successful response; retry if that is harmless.

        Raises:
            InvalidInputError: A value of the request cannot be encoded.
            ApiError: The service rejects the request or fails.
            UnreachableError: The service does not respond.
        """
        request, retry_state = call.build_request(self._http), RetryState(call, self.url)
        while True:
            try:
                response = self._http.send(request)
            except httpx.RequestError as error:
                delay = retry_state.delay_after_error(error)
            else:
                if not response.is_error:
                    return response
                delay = retry_state.delay_after_rejection(response)
            time.sleep(delay)

    def call(self, call: Call[T]) -> T:
        """Return the result of a call.

        Raises:
            ApiError: The service rejects the request or fails.
            UnreachableError: The service does not respond.
            InvalidResponseError: The response is not from this service.
        """
        return call.parse(self.send(call), self.url)

    def iterate(self, pages: Pages[T]) -> Iterator[T]:
        """Yield the items of a list; pages are requested as needed."""
        while (call := pages.next_call()) is not None:
            yield from pages.read(self.call(call))

    @contextmanager
    def stream(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """Yield a successful response whose body is read in chunks; the request is not retried.

        Raises:
            ApiError: The service rejects the request or fails.
            UnreachableError: The service does not respond, or the connection is lost.
        """
        request = call.build_request(self._http)
        try:
            with closing(self._http.send(request, stream=True)) as response:
                if response.is_error:
                    response.read()
                    raise ApiError.from_response(response)
                yield response
        except httpx.RequestError as error:
            raise UnreachableError.from_error(self.url, error) from error

    def fetch(self, download: Download) -> Path:
        """Fetch a file; if the connection is lost, the download resumes where it stopped.

        Raises:
            DownloadError: The received bytes differ from the published ones.
            ApiError: The service rejects the request or fails.
            UnreachableError: The service does not respond; the bytes received so far are kept for the next call.
        """
        if not download.begin():
            return download.target
        while download.is_missing_bytes():
            try:
                with self.stream(download.call()) as response, download.receiving(response) as write:
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        write(chunk)
            except UnreachableError as error:
                time.sleep(download.note_interruption(error))
        return download.finish()
