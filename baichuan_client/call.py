"""Describes one request as data, so that the sync and async clients send the same requests."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from baichuan_client.errors import InvalidInputError, InvalidResponseError

T = TypeVar("T")
Params = Mapping[str, str | int | bool | None]

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(r"([!-~]([ -~]*[!-~])?)?")
SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        path: Path relative to the service's address.
        read: Converts the JSON of the response to the result.
        params: The query parameters; None values are omitted.
        body: Sent as JSON unless it is None.
        files: Multipart form data, in the format of httpx's `files` argument.
        timeout: Replaces the client's timeout.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    params: Params = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    files: Any = None
    timeout: httpx.Timeout | None = None

    @property
    def is_retryable(self) -> bool:
        """Whether sending the request twice has the same effect as sending it once."""
        return self.method == "GET" or "Idempotency-Key" in self.headers

    def build_request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Return the request to send.

        Raises:
            InvalidInputError: A value cannot be encoded; the message names it.
        """
        try:
            self._check_headers()
            return http.build_request(**self._list_arguments())
        except (httpx.InvalidURL, TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(self._describe_fault(error)) from error

    def _check_headers(self) -> None:
        # httpx reports some of these values only as a connection error, which would be retried.
        for name, value in self.headers.items():
            if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
                remedy = "use only printable ASCII characters, with no space at the beginning or end"
                raise InvalidInputError(f"the header {name!r} has the value {value!r}; {remedy}")

    def _describe_fault(self, error: Exception) -> str:
        """Name the value that cannot be encoded, and say what to change."""
        try:
            fault = _find_fault(self.body, "") or _find_fault(dict(self.params), "")
        except RecursionError:
            fault = None
        return fault or f"{self.method} {self.path!r} cannot be sent: {error}; correct the path, parameters or body"

    def _list_arguments(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "method": self.method,
            "url": self.path,
            "params": {name: value for name, value in self.params.items() if value is not None},
            "headers": self.headers,
        }
        if self.files is None:
            given["json"] = self.body
        else:
            given["files"] = self.files
        if self.timeout is not None:
            given["timeout"] = self.timeout
        return given

    def parse(self, response: httpx.Response, url: str) -> T:
        """Return the result that a response contains.

        Raises:
            InvalidResponseError: The response is not JSON, or does not have the expected format.
        """
        try:
            return self.read(response.json())
        except ValueError as error:  # includes pydantic's ValidationError
            raise InvalidResponseError(url) from error


def _find_fault(value: Any, place: str) -> str | None:
    """Describe the first value within a JSON value that cannot be encoded; `place` is the path to the value."""
    subject = place or "the body"
    match value:
        case str():
            has_surrogate = SURROGATE.search(value)
            return f"{subject} contains an unpaired surrogate; write the whole character" if has_surrogate else None
        case float():
            return None if math.isfinite(value) else f"{subject} is {value}; JSON has only finite numbers, or use None"
        case None | bool() | int():
            return None
        case dict():
            names = (_find_fault(key, f"the key {key!r} of {subject}") for key in value)
            items = (_find_fault(item, f"{place}.{key}" if place else str(key)) for key, item in value.items())
            return next((fault for fault in (*names, *items) if fault), None)
        case list() | tuple():
            faults = (_find_fault(item, f"{place}[{index}]") for index, item in enumerate(value))
            return next((fault for fault in faults if fault), None)
        case _:
            name = type(value).__name__
            return f"{subject} is a {name}, which JSON cannot represent; use a string, number, list or dict"
