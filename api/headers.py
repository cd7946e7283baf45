"""Validates request headers that must not be silently ignored."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Scope

from api.errors import create_problem_response

CHECKED_HEADERS = frozenset({b"idempotency-key", b"content-encoding"})


def check_headers(scope: Scope, request_id: str) -> JSONResponse | None:
    """Return an error response if a request has contradictory idempotency keys or a compressed body."""
    if not any(name in CHECKED_HEADERS for name, _ in scope["headers"]):
        return None  # fast path for nearly every request: one scan of the headers instead of two
    headers = Headers(scope=scope)
    if len(set(headers.getlist("idempotency-key"))) > 1:
        detail = "the request has Idempotency-Key headers with different values; keep only one"
        title = "The request is not valid"
        return create_problem_response(
            request_id, HTTPStatus.BAD_REQUEST, "invalid_request", title, detail, param="Idempotency-Key"
        )
    codings = [coding.strip() for value in headers.getlist("content-encoding") for coding in value.split(",")]
    compressed = [coding for coding in codings if coding.lower() not in ("", "identity")]
    if compressed and _has_body(headers):
        return create_problem_response(
            request_id,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Unsupported media type",
            f"the body has the Content-Encoding {compressed[0][:64]!r}; send it uncompressed, without this header",
            param="Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )
    return None


def requires_nonexistence(scope: Scope) -> bool:
    """Whether a request has the condition `If-None-Match: *`, which is only true if the resource does not exist."""
    return any(name == b"if-none-match" and value.strip() == b"*" for name, value in scope["headers"])


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
