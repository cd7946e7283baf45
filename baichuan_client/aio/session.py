"""The asynchronous counterpart of `baichuan_client.session`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from baichuan_client.call import Call
from baichuan_client.endpoint import DEFAULT_TIMEOUT_SECONDS, Endpoint
from baichuan_client.errors import ApiError, UnreachableError
from baichuan_client.pages import Pages
from baichuan_client.retry_state import RetryState
from baichuan_client.transfers import CHUNK_BYTES, Download

T = TypeVar("T")


class AsyncSession:
    """Connections to one service, for one event loop; see `baichuan_client.session.Session`."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Prepare connections; none is opened yet.

        Raises:
            ConfigurationError: The address cannot be parsed.
        """
        self.url = endpoint.url
        self._http = httpx.AsyncClient(**endpoint.http_options(timeout_seconds))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, call: Call[Any]) -> httpx.Response:
        """Return a successful response; see `Session.send`."""
        request, retry_state = call.build_request(self._http), RetryState(call, self.url)
        while True:
            try:
                response = await self._http.send(request)
            except httpx.RequestError as error:
                delay = retry_state.delay_after_error(error)
            else:
                if not response.is_error:
                    return response
                delay = retry_state.delay_after_rejection(response)
            await asyncio.sleep(delay)

    async def call(self, call: Call[T]) -> T:
        """Return the result of a call; see `Session.call`."""
        return call.parse(await self.send(call), self.url)

    async def iterate(self, pages: Pages[T]) -> AsyncIterator[T]:
        """Yield the items of a list; pages are requested as needed."""
        while (call := pages.next_call()) is not None:
            for item in pages.read(await self.call(call)):
                yield item

    @asynccontextmanager
    async def stream(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """Yield a successful response whose body is read in chunks; see `Session.stream`."""
        request = call.build_request(self._http)
        try:
            async with aclosing(await self._http.send(request, stream=True)) as response:
                if response.is_error:
                    await response.aread()
                    raise ApiError.from_response(response)
                yield response
        except httpx.RequestError as error:
            raise UnreachableError.from_error(self.url, error) from error

    async def fetch(self, download: Download) -> Path:
        """Fetch a file, with all disk access in threads; see `Session.fetch`."""
        if not await asyncio.to_thread(download.begin):
            return download.target
        while await asyncio.to_thread(download.is_missing_bytes):
            try:
                async with self.stream(download.call()) as response:
                    with download.receiving(response) as write:
                        async for chunk in response.aiter_bytes(CHUNK_BYTES):
                            await asyncio.to_thread(write, chunk)
            except UnreachableError as error:
                await asyncio.sleep(download.note_interruption(error))
        return await asyncio.to_thread(download.finish)
