"""Problem documents (RFC 9457) as one readable line."""

from typing import Any

import httpx

from cli.errors import CommandError
from cli.exit_codes import ExitCode


def refusal(response: httpx.Response) -> CommandError:
    """Return the error for a response with status 4xx or 5xx whose body has been read."""
    return CommandError(_line(response), _code(response.status_code))


def _code(status: int) -> ExitCode:
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return ExitCode.UNAUTHENTICATED
    return ExitCode.UNREACHABLE if status >= httpx.codes.INTERNAL_SERVER_ERROR else ExitCode.REFUSED


def _line(response: httpx.Response) -> str:
    document = _document(response)
    detail = str(document.get("detail") or document.get("title") or response.reason_phrase or "no reason given")
    return f"{_field(document, detail)}{detail} (status {response.status_code})"


def _field(document: dict[str, Any], detail: str) -> str:
    """Return the field at fault, unless the detail already begins with it."""
    error = document.get("error")
    param = error.get("param") if isinstance(error, dict) else None
    return f"{param}: " if param and f"{param}: " not in detail else ""


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
