"""Turns every error into a problem document (RFC 9457) that the `openai` client also understands.

Domain errors know nothing about HTTP: the only table that maps them to a status is in this module.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.validation import FieldError, to_field_errors
from jobs import errors as domain
from jobs.database import OUTAGE_ERRORS

PROBLEM_MEDIA_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-ID"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProblemType:
    """The status and title of all errors of a class; the URI of the problem type contains the error's `code`."""

    status: HTTPStatus
    title: str


PROBLEM_TYPES: Mapping[type[domain.DomainError], ProblemType] = {
    domain.DomainError: ProblemType(HTTPStatus.BAD_REQUEST, "The request cannot be served"),
    domain.NotFoundError: ProblemType(HTTPStatus.NOT_FOUND, "Not found"),
    domain.InvalidRequestError: ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "The request is not valid"),
    domain.UnknownModelError: ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "Unknown model"),
    domain.UnknownFileError: ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "Unknown file"),
    domain.UnknownCursorError: ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "Unknown item"),
    domain.PathNotAllowedError: ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "Path not allowed"),
    domain.ConflictError: ProblemType(HTTPStatus.CONFLICT, "Conflict"),
    domain.IllegalTransitionError: ProblemType(HTTPStatus.CONFLICT, "The job's state does not allow this"),
    domain.VersionConflictError: ProblemType(HTTPStatus.PRECONDITION_FAILED, "The job has changed"),
    domain.IdempotencyConflictError: ProblemType(HTTPStatus.CONFLICT, "Idempotency key already used"),
    domain.InUseError: ProblemType(HTTPStatus.CONFLICT, "In use"),
    domain.OutdatedSpecError: ProblemType(HTTPStatus.CONFLICT, "The spec is outdated"),
    domain.NameTakenError: ProblemType(HTTPStatus.CONFLICT, "Name taken"),
    domain.TooLargeError: ProblemType(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Too large"),
    domain.InsufficientStorageError: ProblemType(HTTPStatus.INSUFFICIENT_STORAGE, "Not enough storage"),
    domain.RetryLaterError: ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "Try again later"),
    domain.TooManyRequestsError: ProblemType(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
    domain.NotReadyError: ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "Not ready"),
    domain.ServingFailedError: ProblemType(HTTPStatus.INTERNAL_SERVER_ERROR, "The model cannot be served"),
    domain.OutcomeUnknownError: ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "The outcome is unknown"),
    domain.StorageUnavailableError: ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "Storage unavailable"),
    domain.AuthenticationError: ProblemType(HTTPStatus.UNAUTHORIZED, "API key missing or invalid"),
    domain.PermissionDeniedError: ProblemType(HTTPStatus.FORBIDDEN, "Not allowed for this API key"),
}

# The `type` in the `error` object, which clients of OpenAI's API use to tell errors apart.
OPENAI_ERROR_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.CONFLICT: "conflict_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class ProblemResponse(JSONResponse):
    """A problem document, which may quote arbitrary text that the client sent."""

    media_type = PROBLEM_MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Encode the content as JSON; lone surrogates, which UTF-8 cannot encode, become JSON escapes."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def create_problem_response(
    request_id: str,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    fields: Sequence[FieldError] = (),
) -> JSONResponse:
    """Return a response with a problem document."""
    body: dict[str, Any] = {
        "type": f"urn:baichuan:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": f"urn:baichuan:request:{request_id}",
        "error": _build_openai_error(status, code, detail, param),
    }
    if fields:
        body["errors"] = [{"param": field.param, "message": field.message} for field in fields]
    return ProblemResponse(body, status, headers)


def to_openai_error(error: domain.DomainError) -> dict[str, Any]:
    """Return an error in OpenAI's format, for a response that has already begun with status 200."""
    return _build_openai_error(PROBLEM_TYPES[type(error)].status, error.code, error.message, error.param)


def _build_openai_error(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    fault = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return {"message": message, "type": OPENAI_ERROR_TYPES.get(HTTPStatus(status), fault), "param": param, "code": code}


def create_internal_error_response(request_id: str) -> JSONResponse:
    """Return the response for an unexpected error."""
    detail = f"the server failed unexpectedly; its log shows the reason under request id {request_id}"
    return create_problem_response(request_id, 500, "internal_error", "Internal error", detail)


def install_error_handlers(app: FastAPI) -> None:
    """Install the application's error handlers."""
    app.add_exception_handler(domain.DomainError, _handle_domain_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    for outage in OUTAGE_ERRORS:
        app.add_exception_handler(outage, _handle_database_error)


async def _handle_domain_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, domain.DomainError):
        raise error
    kind = PROBLEM_TYPES[type(error)]
    status = _choose_status(request, kind.status)
    headers = _choose_headers(status, error)
    request_id = request.state.request_id
    return create_problem_response(
        request_id, status, error.code, kind.title, error.message, param=error.param, headers=headers
    )


def _choose_status(request: Request, status: HTTPStatus) -> HTTPStatus:
    """Return 400 instead of 422 on routes of OpenAI's API, because its clients expect that."""
    is_openai = getattr(request.state, "answers_400", False)
    return HTTPStatus.BAD_REQUEST if is_openai and status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def _choose_headers(status: int, error: domain.DomainError) -> dict[str, str]:
    # The openai client retries 409, 429 and 5xx unless a header forbids it. For these errors, a retry is pointless
    # or could repeat a request that has taken effect.
    if status == HTTPStatus.CONFLICT or isinstance(error, domain.OutcomeUnknownError | domain.ServingFailedError):
        return {"x-should-retry": "false"}
    if isinstance(error, domain.RetryLaterError):
        return {"Retry-After": str(error.seconds)}
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return {"WWW-Authenticate": 'Bearer realm="baichuan"'}
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return {"Retry-After": "5"}
        case _:
            return {}


async def _handle_validation_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    request_id = request.state.request_id
    fields = to_field_errors(error.errors())
    detail = "; ".join(f"{field.param}: {field.message}" if field.param else field.message for field in fields)
    if any(entry["type"] == "json_invalid" for entry in error.errors()):
        return create_problem_response(request_id, 400, "malformed_json", "Malformed JSON", detail)
    if isinstance(error.body, bytes):
        detail = "send the body as JSON with the header Content-Type: application/json"
        return create_problem_response(request_id, 415, "unsupported_media_type", "Unsupported media type", detail)
    title, status = "The request is not valid", _choose_status(request, HTTPStatus.UNPROCESSABLE_ENTITY)
    return create_problem_response(
        request_id, status, "invalid_request", title, detail, param=fields[0].param, fields=fields
    )


# The code and message for errors that the framework raises; None keeps the error's own message.
HTTP_PROBLEMS = {
    400: ("malformed_json", "the body could not be read as JSON; check that it is complete and encoded as UTF-8"),
    404: ("unknown_address", "no resource exists at this URL; /docs lists all endpoints"),
    405: ("method_not_allowed", "this URL does not support that method; the Allow header lists the supported ones"),
    413: ("too_large", None),
}


async def _handle_http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    code, remedy = HTTP_PROBLEMS.get(status, ("refused", None))
    detail = remedy or str(error.detail)
    headers = {"Allow": _list_allowed_methods(request)} if status == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    return create_problem_response(request.state.request_id, status, code, status.phrase, detail, headers=headers)


def _list_allowed_methods(request: Request) -> str:
    """Return all methods that a URL supports; the framework's own error lists those of only one route."""
    routes = request.app.routes
    known = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ", ".join(["HEAD", *known] if "GET" in known else known)


async def _handle_database_error(request: Request, error: Exception) -> JSONResponse:
    request_id = request.state.request_id
    log.error("request %s: the database failed: %s", request_id, error)
    detail = "the database is not responding; try again, and see /readyz"
    headers = {"Retry-After": "1"}
    return create_problem_response(
        request_id, 503, "database_unavailable", "Database unavailable", detail, headers=headers
    )
