"""The HTTP client of the commands: every failure becomes one readable line with the right exit code."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import httpx

from cli.endpoint import LOOPBACK, Endpoint
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.problems import refusal

TIMEOUT = httpx.Timeout(30, connect=5)
REPEATABLE = frozenset({429, 502, 503})
REPEATS = 3
PAGE = 100

Params = Mapping[str, str | int | None]


class Client:
    """One service. Requests that are safe to repeat are repeated when the service is out for a moment."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = endpoint.url
        try:
            host = httpx.URL(endpoint.url).host
        except httpx.InvalidURL as error:
            raise CommandError(f"the address {endpoint.url!r} cannot be used: {error}", ExitCode.USAGE) from error
        self._http = httpx.Client(
            base_url=endpoint.url,
            headers={"Authorization": f"Bearer {endpoint.api_key}"},
            timeout=TIMEOUT,
            trust_env=host not in LOOPBACK,  # a proxy cannot reach this machine's loopback address
        )

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self._http.close()

    def get(self, path: str, params: Params | None = None) -> Any:
        """Return the JSON of a GET response."""
        return self._json(self.request("GET", path, params=params))

    def post(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, params: Params | None = None
    ) -> Any:
        """Return the JSON of a POST response; the request is repeated only with an Idempotency-Key."""
        return self._json(self.request("POST", path, params=params, json=body, headers=headers))

    def delete(self, path: str) -> None:
        """Send a DELETE."""
        self.request("DELETE", path)

    def pages(self, path: str, params: Params | None = None, *, most: int | None = None) -> Iterator[Any]:
        """Yield the items of a list, page by page, up to `most`."""
        cursor: dict[str, str | int | None] = {}
        while most is None or most > 0:
            limit = PAGE if most is None else min(PAGE, most)
            page = self.get(path, {**(params or {}), **cursor, "limit": limit})
            yield from page["data"]
            if not page["has_more"]:
                return
            most = None if most is None else most - len(page["data"])
            cursor = {"after": page["last_id"]}

    def request(self, method: str, path: str, *, params: Params | None = None, **options: Any) -> httpx.Response:
        """Return a successful response.

        Raises:
            CommandError: The service rejects the request, fails, or does not answer.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        repeatable = method == "GET" or "Idempotency-Key" in (options.get("headers") or {})
        for repeat in range(REPEATS if repeatable else 1):
            if repeat:
                time.sleep(0.2 * 4**repeat)
            try:
                response = self._http.request(method, path, params=given, **options)
            except httpx.RequestError as error:
                failure = self.unreachable(error)
                if isinstance(error, httpx.ConnectError):
                    break
                continue
            if response.is_error:
                failure = refusal(response)
                if response.status_code in REPEATABLE:
                    continue
                break
            return response
        raise failure

    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> AbstractContextManager[httpx.Response]:
        """Return a context manager of a GET whose body is read in chunks."""
        return self._http.stream("GET", path, headers=headers)

    def post_stream(self, path: str, body: Any, timeout: httpx.Timeout) -> AbstractContextManager[httpx.Response]:
        """Return a context manager of a POST whose response is read in chunks."""
        return self._http.stream("POST", path, json=body, timeout=timeout)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            message = f"{self.url} does not answer in JSON; is it this service? Correct BAICHUAN_URL"
            raise CommandError(message, ExitCode.UNREACHABLE) from None

    def unreachable(self, error: httpx.RequestError) -> CommandError:
        """Return the error for a request without a response."""
        reason = str(error) or type(error).__name__
        message = f"no answer from {self.url} ({reason}); start the service with `baichuan up`, or set BAICHUAN_URL"
        return CommandError(message, ExitCode.UNREACHABLE)
