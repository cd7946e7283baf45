"""Middleware for every request: request ids, the body limit, the access log and unexpected errors."""

import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from itertools import count
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import REQUEST_ID_HEADER, create_internal_error_response, create_problem_response
from api.headers import check_headers, requires_nonexistence

CLIENT_CLOSED_REQUEST = 499  # nginx's status code for a request whose client disconnected
PROCESS_TOKEN = secrets.token_hex(6)
REQUEST_NUMBERS = count(1)
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")

access_logger = logging.getLogger("api.access")
log = logging.getLogger(__name__)


def new_request_id() -> str:
    """Create an id for a request without one."""
    return f"req-{PROCESS_TOKEN}-{next(REQUEST_NUMBERS):x}"


def log_refused_request(request_id: str, status: int, client: str | None) -> None:
    """Write the access log entry for a request that was refused before it reached the application."""
    access_logger.info("%s", json.dumps({"request_id": request_id, "status": status, "client": client}))


class HttpExchange:
    """One request and its response, as recorded in the access log."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        self.request_id = given if REQUEST_ID_PATTERN.fullmatch(given) else new_request_id()
        self.status: int | None = None
        self._scope = scope
        self._send = send
        self._began = time.perf_counter()
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        """Forward a message of the response, adding the request's id to its headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self.request_id
        await self._send(message)

    def format_log_line(self) -> str:
        """Return the line for the access log."""
        client = self._scope.get("client")
        key = self._scope["state"].get("key")
        return json.dumps(
            {
                "request_id": self.request_id,
                "method": self._scope["method"],
                "path": self._scope["path"],
                "status": self.status or CLIENT_CLOSED_REQUEST,
                "milliseconds": round((time.perf_counter() - self._began) * 1000, 1),
                "key": key.id if key else None,
                "client": client[0] if client else None,
            }
        )


class OutermostMiddleware:
    """The outermost middleware, which assigns request ids, writes the access log and handles unexpected errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = HttpExchange(scope, send)
        try:
            await self._serve(scope, receive, exchange)
        finally:
            access_logger.info("%s", exchange.format_log_line())

    async def _serve(self, scope: Scope, receive: Receive, exchange: HttpExchange) -> None:
        try:
            if refusal := _check_url(scope, exchange.request_id) or check_headers(scope, exchange.request_id):
                await refusal(scope, receive, exchange.send)
                return
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            pass  # nobody is waiting for the response
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            if exchange.status is not None:
                raise  # the server then closes the connection, so that a partial response does not look complete
            await create_internal_error_response(exchange.request_id)(scope, receive, exchange.send)


def _check_url(scope: Scope, request_id: str) -> JSONResponse | None:
    """Return an error response if the URL has NUL characters or duplicate query parameters."""
    if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
        detail = "the URL contains a NUL character (%00); remove it"
        return create_problem_response(request_id, 400, "invalid_address", "Invalid URL", detail)
    if b"&" not in scope["query_string"]:
        return None
    counts = Counter(name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    name, times = counts.most_common(1)[0] if counts else ("", 0)
    if times < 2:  # noqa: PLR2004 - no parameter is repeated
        return None
    detail = f"the query parameter {name[:64]!r} appears {times} times; keep only one"
    return create_problem_response(
        request_id, 422, "invalid_request", "The request is not valid", detail, param=name[:64]
    )


class BodilessResponseMiddleware:
    """Serves HEAD like GET but without the body; responds to `If-None-Match: *` with 304 if the resource exists.

    A Range header has no meaning for HEAD (RFC 9110, 14.2).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        is_head, is_unwanted = scope["method"] == "HEAD", requires_nonexistence(scope)
        if not is_head and not is_unwanted:
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        is_cut = False

        async def send_head(message: Message) -> None:
            nonlocal is_cut
            if message["type"] == "http.response.start":
                exists = message["status"] == HTTPStatus.OK
                is_cut = is_head or (is_unwanted and exists)
                await send(_to_not_modified(message) if is_unwanted and exists else message)
                if is_cut:
                    # After the end of the response, a streaming route sees a disconnect and stops.
                    await send({"type": "http.response.body"})
            elif not is_cut:
                await send(message)

        await self._app({**scope, "method": "GET", "headers": headers}, receive, send_head)


def _to_not_modified(start: Message) -> Message:
    """Turn the start of a 200 response into that of a 304, without the headers that describe a body."""
    headers = [(name, value) for name, value in start["headers"] if not name.lower().startswith(b"content-")]
    return {**start, "status": HTTPStatus.NOT_MODIFIED, "headers": headers}


class BodyLimitMiddleware:
    """Rejects bodies that are too large, except on routes that stream their bodies and have their own limits.

    Args:
        app: The application.
        limit: Maximum size of a body in bytes.
        streamed: Patterns that match the method and path of the routes that stream.
    """

    def __init__(self, app: ASGIApp, limit: int, streamed: Iterable[re.Pattern[str]]) -> None:
        self._app = app
        self._limit = limit
        self._streamed = tuple(streamed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        address = f"{scope.get('method')} {scope.get('path')}"
        if scope["type"] != "http" or any(pattern.fullmatch(address) for pattern in self._streamed):
            await self._app(scope, receive, send)
            return
        left = self._limit

        async def receive_limited() -> Message:
            nonlocal left
            announced = Headers(scope=scope).get("content-length", "0")
            if announced.isdigit() and int(announced) > self._limit:
                raise self._create_too_large_error()
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._create_too_large_error()
            return message

        await self._app(scope, receive_limited, send)

    def _create_too_large_error(self) -> HTTPException:
        detail = f"a JSON body may have at most {self._limit} bytes; put prompts or data into a file (POST /v1/files)"
        return HTTPException(413, detail)
