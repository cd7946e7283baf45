"""Events of a streamed response of llama.cpp's server, read several at a time.

If the model needs all cores of the machine, each wake-up of the reader delays the computation of the next token.
"""

import json
import math
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPResponse
from typing import Any

READ_BYTES = 65_536
WAKE_BYTES = 262_144  # more unread bytes than this wake the reader before the interval has passed


def read_events(
    response: HTTPResponse, connection: socket.socket, get_interval: Callable[[], float]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the first events as soon as they arrive, then all that have arrived once per interval and at the end.

    Args:
        response: A response in chunked encoding whose body has not been read.
        connection: The response's socket; the server must close it at the end.
        get_interval: Returns the interval in seconds. Streams with the same interval are read at the same times, so
            that they wake other threads together.

    Raises:
        ValueError: The response is malformed.
        OSError: The connection failed.
    """
    # The reader of the headers may have buffered the start of the body; this read takes all of it.
    chunks, lines = bytearray(response.fp.read1(READ_BYTES)), bytearray()
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    is_open, has_begun = True, False
    while True:
        lines += _take_complete_chunks(chunks)
        if events := _take_events(lines):
            yield events
            if not has_begun:
                has_begun = True
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, WAKE_BYTES)
        if not is_open:
            return
        interval = get_interval()
        poll.poll(math.ceil((interval - time.monotonic() % interval) * 1000) if has_begun else None)
        is_open = _receive_all(connection, chunks)


def _receive_all(connection: socket.socket, received: bytearray) -> bool:
    """Append all bytes that have arrived; return whether the connection is still open."""
    with suppress(BlockingIOError):
        while part := connection.recv(READ_BYTES, socket.MSG_DONTWAIT):
            received += part
        return False
    return True


def _take_complete_chunks(encoded: bytearray) -> bytes:
    """Remove the complete chunks from the start of `encoded`, and return their content (RFC 9112, section 7.1)."""
    content = b""
    while (end := encoded.find(b"\r\n")) >= 0:
        size, start = int(encoded[:end], 16), end + 2
        if len(encoded) < start + size + 2:
            break
        content += encoded[start : start + size]
        del encoded[: start + size + 2]
    return content


def _take_events(lines: bytearray) -> list[dict[str, Any]]:
    """Remove the complete lines from `lines`, and return the events that they contain."""
    *complete, rest = bytes(lines).split(b"\n")
    lines[:] = rest
    fields = [line.partition(b": ") for line in complete]
    # Lines of other kinds only keep the connection open.
    return [json.loads(content) for kind, _, content in fields if kind in (b"data", b"error")]
