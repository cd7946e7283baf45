"""The reader of llama.cpp's streams: no event is lost, and the first and the last events do not wait."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation.engines.llama_cpp.events import read_events

HOUR = 3600.0
HEADERS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class Peer:
    """The server's end of a connection: it sends what the test passes to it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connection: socket.socket | None = None

    def send(self, content: bytes) -> None:
        """Send bytes as they are; the first call waits for the client."""
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sendall(content)

    def close(self) -> None:
        """Close the connection as a server does that has read the whole request; later calls have no effect."""
        if self._connection is not None:
            self._connection.recv(65_536)
            self._connection.close()
        self._connection = None
        self._listener.close()


@contextmanager
def reading(peer: Peer, interval: float) -> Iterator[Iterator[list[dict[str, Any]]]]:
    """Request a stream from the peer, which has already sent something, and read it."""
    with closing(HTTPConnection("127.0.0.1", peer.port)) as connection:
        connection.request("GET", "/")
        sock = connection.sock
        with connection.getresponse() as response:
            yield read_events(response, sock, lambda: interval)


def encode(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content) if content else b""


texts = st.text(max_size=30) | st.sampled_from(["\r\n", "data: {}", "0\r\n\r\n"])


@given(texts=st.lists(texts, max_size=12), data=st.data())
def test_all_events_arrive_in_order_however_they_are_cut(texts: list[str], data: st.DataObject) -> None:
    events = [{"text": text} for text in texts]
    content = b": still here\n\n" + encode(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    pieces = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    sent = HEADERS + b"".join(map(chunk, pieces)) + LAST_CHUNK
    sends = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    with closing(Peer()) as peer:

        def serve() -> None:
            for start, end in zip([0, *sends], [*sends, len(sent)], strict=True):
                peer.send(sent[start:end])
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with reading(peer, 0.001) as groups:
            received = [event for group in groups for event in group]
        thread.join()
    assert received == events


def test_the_first_events_and_the_end_of_the_stream_do_not_wait_for_the_interval() -> None:
    with closing(Peer()) as peer:
        first = threading.Thread(target=peer.send, args=[HEADERS + chunk(encode([{"n": 0}]))])
        first.start()
        with reading(peer, HOUR) as groups:
            assert next(groups) == [{"n": 0}]
            first.join()
            for number in (1, 2):
                peer.send(chunk(encode([{"n": number}])))
            peer.send(LAST_CHUNK)
            peer.close()
            assert list(groups) == [[{"n": 1}, {"n": 2}]]


def test_many_bytes_do_not_wait_for_the_interval() -> None:
    large, may_close = {"text": "x" * 50_000}, threading.Event()
    with closing(Peer()) as peer:

        def serve() -> None:
            peer.send(HEADERS + chunk(encode([large])) * 100)
            may_close.wait()
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        received = 0
        with reading(peer, HOUR) as groups:
            while received < 50:  # only the amount of data can wake the reader, because the connection stays open
                received += len(next(groups))
            may_close.set()
            received += sum(map(len, groups))
        thread.join()
    assert received == 100


def test_a_malformed_chunk_is_an_error() -> None:
    with closing(Peer()) as peer:
        thread = threading.Thread(target=peer.send, args=[HEADERS + b"size\r\n"])
        thread.start()
        with reading(peer, 0.001) as groups, pytest.raises(ValueError, match="invalid literal"):
            next(groups)
        thread.join()
