"""The synchronous client."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from baichuan_client import calls
from baichuan_client.call import Params
from baichuan_client.endpoint import DEFAULT_TIMEOUT_SECONDS, Endpoint
from baichuan_client.files import Files
from baichuan_client.jobs import Jobs
from baichuan_client.models import Models
from baichuan_client.session import Session


class Client:
    """A thread-safe client for one service.

    Attributes:
        jobs: Methods to submit, get and list jobs.
        files: Methods to upload, list, download and delete files.
        models: Methods to register, list and delete models.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        """Prepare a client; no request is sent yet.

        Args:
            base_url: Address of the service; BAICHUAN_URL by default.
            api_key: An API key; BAICHUAN_API_KEY by default.
            timeout: Maximum seconds to wait for the next part of a response.

        Raises:
            ConfigurationError: The address or the key is missing or unusable.
        """
        self._session = Session(Endpoint.find(base_url, api_key), timeout)
        self.jobs = Jobs(self._session)
        self.files = Files(self._session)
        self.models = Models(self._session)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON response of an API endpoint for which this client has no method.

        Args:
            method: GET, POST or DELETE.
            path: Path of the endpoint, for example `/v1/workers`.
            params: The query.
            body: Sent as JSON.
            headers: Added to the client's own. With an Idempotency-Key, a POST is retried like a GET.
        """
        return self._session.call(calls.request_json(method, path, params, body, headers))
