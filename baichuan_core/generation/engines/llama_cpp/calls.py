"""The connections to llama.cpp's server: one per completion, so that closing it frees the slot."""

import json
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.llama_cpp.questions import Answer, Piece
from baichuan_core.generation.engines.llama_cpp.server import LlamaServer


class GivenUpError(Exception):
    """The completion was aborted."""


class Calls:
    """The requests that one completion takes; another thread can break them off.

    Attributes:
        unread: Whether a whole completion is requested. llama.cpp computes it to its end even if it is broken off,
            while it stops streams.
    """

    def __init__(self, server: LlamaServer) -> None:
        self.unread = False
        self._server = server
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._given_up = False

    def complete(self, question: Mapping[str, Any]) -> Answer:
        """Return a whole completion.

        Raises:
            GivenUpError: Another thread called `give_up`.
            UnsupportedError: llama.cpp rejects the request, or its process broke down.
            MemoryOccupiedError: Its process was killed.
        """
        self.unread = question["n_predict"] > 1
        with self._ask(question) as response:
            answer = Answer.of(json.load(response))
        self.unread = False
        return answer

    def stream(self, question: Mapping[str, Any]) -> Generator[Piece]:
        """Return the pieces of a completion as they come. Closing the iterator ends the work.

        Raises:
            GivenUpError: Another thread called `give_up`.
            UnsupportedError: llama.cpp rejects the request, or its process broke down.
            MemoryOccupiedError: Its process was killed.
        """
        with self._ask({**question, "stream": True}) as response:
            for line in response:
                kind, _, content = line.partition(b": ")
                if kind in (b"data", b"error"):  # other lines only keep the connection open
                    told = json.loads(content)
                    _refuse_errors(told)
                    if "stop_type" in told:
                        return
                    if told["tokens"]:
                        entry = next(iter(told.get("completion_probabilities", ())), None)
                        yield Piece(told["tokens"][-1], told["content"], told["tokens_predicted"], entry)
            raise ConnectionAbortedError

    def give_up(self) -> None:
        """Break off all requests, and those to come as well. Any thread may call this."""
        with self._lock:
            self._given_up = True
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it, as closing would not

    @contextmanager
    def _ask(self, question: Mapping[str, Any]) -> Iterator[HTTPResponse]:
        try:
            with self._connection() as connection:
                connection.request("POST", "/completion", json.dumps(question), self._server.headers)
                response = connection.getresponse()
                if response.status != HTTPStatus.OK:
                    _refuse_errors(json.load(response))
                yield response
        except (OSError, HTTPException, ValueError) as error:
            raise (GivenUpError() if self._given_up else self._server.death()) from error

    @contextmanager
    def _connection(self) -> Iterator[HTTPConnection]:
        connection = HTTPConnection("127.0.0.1", self._server.port)
        connection.connect()
        wire = connection.sock
        try:
            with self._lock:
                if self._given_up:
                    raise ConnectionAbortedError
                self._open.add(wire)
            yield connection
        finally:
            with self._lock:
                self._open.discard(wire)
            connection.close()


def _refuse_errors(told: Mapping[str, Any]) -> None:
    if error := told.get("error"):
        raise UnsupportedError(f"llama.cpp refuses the request: {error.get('message', error)}")
