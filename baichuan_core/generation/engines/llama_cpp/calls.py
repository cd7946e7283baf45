"""Separate connections to llama.cpp's server for each completion; closing them frees the completion's slot."""

import json
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.llama_cpp.events import read_events
from baichuan_core.generation.engines.llama_cpp.protocol import CompletionChunk, CompletionResponse
from baichuan_core.generation.engines.llama_cpp.server import LlamaServer


class CompletionAbortedError(Exception):
    """The completion was aborted."""


class CompletionClient:
    """An HTTP client for one completion, which another thread can abort.

    Args:
        server: The server.
        get_interval: See `read_events`.

    Attributes:
        computes_unread: Whether the server is computing a completion that is not streamed. When such a request is
            aborted, the server still computes it to the end, whereas it stops an aborted stream.
    """

    def __init__(self, server: LlamaServer, get_interval: Callable[[], float]) -> None:
        self.computes_unread = False
        self._server = server
        self._get_interval = get_interval
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._aborted = False

    def complete(self, body: Mapping[str, Any]) -> CompletionResponse:
        """Request a completion and return it as a whole.

        Raises:
            CompletionAbortedError: Another thread called `abort`.
            UnsupportedError: llama.cpp rejected the request, or its process failed.
            MemoryOccupiedError: llama.cpp's process was killed.
        """
        self.computes_unread = body["n_predict"] > 1
        with self._send_request(body) as (response, _):
            answer = CompletionResponse.from_json(json.load(response))
        self.computes_unread = False
        return answer

    def stream(self, body: Mapping[str, Any]) -> Generator[list[CompletionChunk]]:
        """Yield the chunks of a completion while they are generated, several at a time; see `read_events`.

        Closing the iterator stops the generation.

        Raises:
            CompletionAbortedError: Another thread called `abort`.
            UnsupportedError: llama.cpp rejected the request, or its process failed.
            MemoryOccupiedError: llama.cpp's process was killed.
        """
        with self._send_request({**body, "stream": True}) as (response, sock):
            for events in read_events(response, sock, self._get_interval):
                yield [_to_chunk(event) for event in events if event.get("tokens") and "stop_type" not in event]
                for event in events:
                    _raise_for_error(event)
                    if "stop_type" in event:
                        return
            raise ConnectionAbortedError

    def abort(self) -> None:
        """Abort all requests, including later ones. Any thread may call this."""
        with self._lock:
            self._aborted = True
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)  # wakes the thread that is reading from it; close() would not

    @contextmanager
    def _send_request(self, body: Mapping[str, Any]) -> Iterator[tuple[HTTPResponse, socket.socket]]:
        """Send a request; yield the response, whose headers have been read, and its socket."""
        try:
            with self._open_connection() as (connection, sock):
                connection.request("POST", "/completion", json.dumps(body), self._server.headers)
                with connection.getresponse() as response:
                    if response.status != HTTPStatus.OK:
                        _raise_for_error(json.load(response))
                    yield response, sock
        except (OSError, HTTPException, ValueError) as error:
            raise (CompletionAbortedError() if self._aborted else self._server.build_failure_error()) from error

    @contextmanager
    def _open_connection(self) -> Iterator[tuple[HTTPConnection, socket.socket]]:
        connection = HTTPConnection("127.0.0.1", self._server.port)
        connection.connect()
        sock = connection.sock
        try:
            with self._lock:
                if self._aborted:
                    raise ConnectionAbortedError
                self._open.add(sock)
            yield connection, sock
        finally:
            with self._lock:
                self._open.discard(sock)
            connection.close()


def _to_chunk(event: Mapping[str, Any]) -> CompletionChunk:
    entry = next(iter(event.get("completion_probabilities", ())), None)
    return CompletionChunk(event["tokens"][-1], event["content"], event["tokens_predicted"], entry)


def _raise_for_error(response: Mapping[str, Any]) -> None:
    if error := response.get("error"):
        raise UnsupportedError(f"llama.cpp rejected the request: {error.get('message', error)}")
