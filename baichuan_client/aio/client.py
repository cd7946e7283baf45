"""The asynchronous client."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from baichuan_client import calls
from baichuan_client.aio.files import AsyncFiles
from baichuan_client.aio.jobs import AsyncJobs
from baichuan_client.aio.models import AsyncModels
from baichuan_client.aio.session import AsyncSession
from baichuan_client.call import Params
from baichuan_client.endpoint import DEFAULT_TIMEOUT_SECONDS, Endpoint


class AsyncClient:
    """A client for one service, for use in one event loop; its methods are those of `baichuan_client.Client`.

    Attributes:
        jobs: Methods to submit, get and list jobs.
        files: Methods to upload, list, download and delete files.
        models: Methods to register, list and delete models.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        """Prepare a client; see `Client`."""
        self._session = AsyncSession(Endpoint.find(base_url, api_key), timeout)
        self.jobs = AsyncJobs(self._session)
        self.files = AsyncFiles(self._session)
        self.models = AsyncModels(self._session)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON response of an API endpoint for which this client has no method; see `Client.request`."""
        return await self._session.call(calls.request_json(method, path, params, body, headers))
