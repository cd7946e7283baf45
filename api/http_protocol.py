"""Uvicorn's HTTP protocol with limits on the size of a header section and on the time that a request takes to arrive.

httptools has neither limit. It appends each fragment of a header to the previous ones, so a header of 100 MB takes
quadratic time in the one thread that serves all requests.
"""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.errors import REQUEST_ID_HEADER, create_problem_response
from api.middleware import log_refused_request, new_request_id
from api.settings import ApiSettings

LINGER_SECONDS = 1  # delay before closing; closing while data is arriving resets the connection and loses the response


@dataclass(frozen=True, slots=True)
class Refusal:
    """The response to a request that never reaches the application."""

    status: HTTPStatus
    code: str
    detail: str


INVALID_REQUEST = Refusal(HTTPStatus.BAD_REQUEST, "invalid_http", "the request is not valid HTTP; fix the client")
UNKNOWN_METHOD = Refusal(
    HTTPStatus.NOT_IMPLEMENTED, "unknown_method", "HTTP has no such method; /docs lists the methods of each endpoint"
)


class BoundedProtocol(HttpToolsProtocol):
    """A connection that enforces size and time limits; `create_protocol` adds a deployment's settings.

    A section is a header section or the trailers of a chunked body. `_section_bytes` counts the bytes received so far
    in the current section; `_window_start` is the time at which the server began to wait for data from the client.
    """

    settings: ApiSettings

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._discards_input = False
        self._in_section = True
        self._section_bytes = 0
        self._section_began = False  # whether a section began in the chunk that is being parsed
        self._awaited: Literal["request", "header", "body"] = "request"
        self._body_bytes = 0
        self._window_start = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base class
        """Start checking the client's pace."""
        super().connection_made(transport)
        self._restart_window()
        self._timer = self.loop.call_later(self.settings.receive_seconds, self._check_pace)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop checking the client's pace."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data in chunks no longer than the limit, so that a section cannot exceed twice the limit."""
        self._unset_keepalive_if_required()
        position = 0
        while position < len(data) and not self._discards_input:
            limit = self.settings.max_header_bytes
            stop = position + (limit + 1 - self._section_bytes if self._in_section else limit)
            self._parse(data[position:stop])
            position = stop

    def on_message_begin(self) -> None:
        """Start timing a header section."""
        self._start_waiting_for("header")
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Record that the header section is complete."""
        self._in_section, self._section_bytes = False, 0
        self._start_waiting_for("body")
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Start counting bytes, because trailers follow if this turns out to be the last, empty chunk."""
        self._enter_section()

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes; trailers follow only the last chunk, which is empty."""
        self._in_section = False
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Start waiting for the next request."""
        self._enter_section()
        self._start_waiting_for("request")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Restart the timeout, because the client could not have sent its next request earlier."""
        self._restart_window()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the base class's interface
        """Refuse a request that the base class found invalid."""
        self._refuse(INVALID_REQUEST)

    def _enter_section(self) -> None:
        self._in_section, self._section_bytes, self._section_began = True, 0, True

    def _parse(self, piece: bytes) -> None:
        self._section_began = False
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserInvalidMethodError:
            self._refuse(UNKNOWN_METHOD)
        except httptools.HttpParserUpgrade:
            # Upgrades are not supported, so the request is served as HTTP/1.1. The parser treats whatever follows, even
            # a body, as data of the other protocol. This data is discarded, so that it is not parsed as a request.
            self._discards_input = True
            self.cycle.keep_alive = False
            return
        except httptools.HttpParserError:
            self._refuse(INVALID_REQUEST)
        if self._in_section and not self._section_began:
            self._section_bytes += len(piece)
            if self._section_bytes > self.settings.max_header_bytes:
                self._refuse(self._create_header_too_large_refusal())

    def _start_waiting_for(self, awaited: Literal["request", "header", "body"]) -> None:
        self._awaited = awaited
        self._restart_window()

    def _restart_window(self) -> None:
        self._window_start = self.loop.time()
        self._body_bytes = 0

    def _check_pace(self) -> None:
        """Refuse a request that arrives too slowly; otherwise, check again when the current window ends."""
        remaining = self._window_start + self.settings.receive_seconds - self.loop.time()
        if remaining <= 0 and self._is_too_slow():
            if self._awaited == "request":
                self.transport.close()  # no request has begun, so no response is due
            else:
                self._refuse(self._create_too_slow_refusal())
            return
        if remaining <= 0:
            self._restart_window()
            remaining = self.settings.receive_seconds
        self._timer = self.loop.call_later(remaining, self._check_pace)

    def _is_too_slow(self) -> bool:
        if self._awaited == "body":
            expected = self.settings.receive_seconds * self.settings.min_body_bytes_per_second
            # Whether the server, not the client, is holding back the body.
            held_back = self.flow.read_paused or self.cycle.waiting_for_100_continue
            return not held_back and self._body_bytes < expected
        cycle = self._last_cycle()
        return cycle is None or cycle.response_complete

    def _last_cycle(self) -> RequestResponseCycle | None:
        """Return the current cycle; before the first request it is None, although the base class declares otherwise."""
        return self.cycle

    def _refuse(self, refusal: Refusal) -> None:
        """Send the refusal unless a response has begun; then discard input, and close the connection after a delay.

        The delay gives the client time to read the response.
        """
        if self._discards_input:
            return
        self._discards_input = True
        self._unset_keepalive_if_required()
        cycle = self._last_cycle()
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._write(refusal)
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.flow.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _write(self, refusal: Refusal) -> None:
        request_id = new_request_id()
        answer = create_problem_response(
            request_id, refusal.status, refusal.code, refusal.status.phrase, refusal.detail
        )
        answer.headers["Connection"] = "close"
        answer.headers[REQUEST_ID_HEADER] = request_id
        lines = [b"%b: %b\r\n" % header for header in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", answer.body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        log_refused_request(request_id, refusal.status, self.client[0] if self.client else None)

    def _create_header_too_large_refusal(self) -> Refusal:
        limit = self.settings.max_header_bytes
        detail = f"the request's header section exceeds {limit} bytes; send fewer or shorter headers"
        return Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header_too_large", detail)

    def _create_too_slow_refusal(self) -> Refusal:
        seconds, rate = self.settings.receive_seconds, self.settings.min_body_bytes_per_second
        detail = f"the request arrived too slowly; send its header within {seconds:g} s and its body at {rate} bytes/s"
        return Refusal(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail)


def create_protocol(settings: ApiSettings) -> type[BoundedProtocol]:
    """Create the protocol class for a deployment; uvicorn instantiates it once per connection."""
    return type("LimitedProtocol", (BoundedProtocol,), {"settings": settings})
