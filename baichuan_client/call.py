"""Describes one request as data, so that the sync and async clients send the same requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from baichuan_client.errors import InvalidResponseError

T = TypeVar("T")
Params = Mapping[str, str | int | bool | None]


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

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `httpx.Client.request`."""
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
