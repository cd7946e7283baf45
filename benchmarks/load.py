"""A load generator with keep-alive HTTP/1.1 over plain sockets, so that the client uses little CPU time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Result of one run: responses per second, and their median and 99th percentile latency in milliseconds."""

    rate: float
    median_ms: float
    p99_ms: float


def request(method: str, path: str, *, key: str = "", body: bytes = b"") -> bytes:
    """Return the bytes of one request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    if body:
        lines.append("Content-Type: application/json")
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def measure(port: int, make_request: Callable[[], bytes], *, clients: int, seconds: float, status: int) -> LoadResult:
    """Send requests over `clients` connections as fast as responses arrive, after a warm-up of a fifth of `seconds`.

    Raises:
        RuntimeError: A response has a different status.
    """
    return asyncio.run(_measure(port, make_request, clients, seconds, status))


async def _measure(
    port: int, make_request: Callable[[], bytes], clients: int, seconds: float, status: int
) -> LoadResult:
    begin = time.perf_counter() + seconds / 5
    end = begin + seconds
    latencies: list[float] = []
    await asyncio.gather(*(_client(port, make_request, begin, end, status, latencies) for _ in range(clients)))
    latencies.sort()
    count = len(latencies)
    return LoadResult(count / seconds, latencies[count // 2] * 1000, latencies[int(count * 0.99)] * 1000)


async def _client(
    port: int, make_request: Callable[[], bytes], begin: float, end: float, status: int, latencies: list[float]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    expected = b"HTTP/1.1 %d" % status
    while (start := time.perf_counter()) < end:
        writer.write(make_request())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(expected):
            raise RuntimeError(f"unexpected response, expected status {status}: {head[:200]!r}")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        finished = time.perf_counter()
        if start >= begin:
            latencies.append(finished - start)
    writer.close()
