"""Measure the latency of chats through Redis, compared with the engine in one process and with a TCP connection.

Usage: python -m benchmarks.chats [--transport]

By default, a real worker with a tiny model answers chats; the result is the time from RPUSH to the first Delta. With
`--transport`, 64 streams with 20 tokens per second each are sent through Redis and through TCP.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from baichuan_core.generation import GenerationRequest, TextGenerator
from examples.tiny_checkpoint import make_tiny_checkpoint
from jobs.chats.messages import REPLIES_ADAPTER, Delta
from tests.workers.chatting import asking, start_serving
from tests.workers.deployment import RedisServer, deployment

CHATS = 200
STREAMS = 64
RATE = 20  # tokens per second and stream
SECONDS = 10


def describe(seconds: list[float]) -> str:
    """Return median, 95th percentile and maximum in milliseconds."""
    ordered = sorted(seconds)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    return f"median {statistics.median(ordered) * 1e3:.2f} ms, p95 {p95 * 1e3:.2f} ms, max {ordered[-1] * 1e3:.2f} ms"


def measure_first_token(folder: Path) -> None:
    """Time chats one after the other: through Redis with a worker, and with the engine in this process."""
    checkpoint = make_tiny_checkpoint(folder / "tiny")
    request: dict[str, Any] = {
        "messages": [{"role": "user", "content": "hello"}],
        "max_new_tokens": 1,
        "temperature": 0,
    }
    server = RedisServer(folder)
    server.start()
    with deployment(folder / "home", server, model_roots=str(checkpoint)) as service:
        service.register("tiny", checkpoint)
        service.start_dispatcher()
        service.start_worker("w")
        job_id, attempt_id = start_serving(service, model="tiny")
        with asking(service) as asker:
            taken = []
            for _ in range(CHATS):
                begun = time.perf_counter()
                chat = asker.ask(attempt_id, **request)
                asker.read_until(lambda chat=chat: asker.deltas(chat))  # type: ignore[misc]
                taken.append(time.perf_counter() - begun)
                asker.finish(chat)
        service.cancel(job_id)
        service.wait(job_id, "cancelled")
    server.stop()
    generator = TextGenerator(checkpoint)
    generator.load()
    alone = []
    for _ in range(CHATS):
        begun = time.perf_counter()
        next(iter(generator.submit(GenerationRequest(**request))))
        alone.append(time.perf_counter() - begun)
    print(f"RPUSH to the first Delta: {describe(taken[5:])}")
    print(f"engine in one process:    {describe(alone[5:])}")


def write_entries(send: Callable[[bytes], None]) -> None:
    """Send one entry per engine step, with the time and one token of each stream."""
    used = time.process_time()
    for step in range(RATE * SECONDS):
        begun = time.monotonic()
        replies: list[Any] = [Delta(f"chat-{n:026d}", step, 0, f" token {time.monotonic()!r}") for n in range(STREAMS)]
        send(REPLIES_ADAPTER.dump_json(replies))
        time.sleep(max(0.0, 1 / RATE - (time.monotonic() - begun)))
    print(f"{time.process_time() - used:.2f}")


def write_to_redis(url: str) -> None:
    """Act as the worker: append entries to a Redis stream."""
    with redis.Redis.from_url(url) as client:

        def send(text: bytes) -> None:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.xadd("replies", {"replies": text}, maxlen=10_000)
                pipeline.expire("replies", 60)
                pipeline.execute()

        write_entries(send)


def write_to_socket(port: str) -> None:
    """Act as the worker: write lines to a TCP connection."""
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        write_entries(lambda text: connection.sendall(text + b"\n"))


def read(name: str, argument: str, take: Callable[[], list[bytes]], server: RedisServer | None = None) -> None:
    """Act as the API process: read the entries that a separate process writes, and print delays and CPU time."""
    own, used = time.process_time(), _read_cpu_seconds(server) if server else 0.0
    command = [sys.executable, "-m", "benchmarks.chats", f"--write-{name}", argument]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    delays: list[float] = []
    while len(delays) < RATE * SECONDS:
        for text in take():
            REPLIES_ADAPTER.validate_json(text)
            delays.append(time.monotonic() - float(json.loads(text)[-1]["text"].split()[-1]))
    spent = writer.communicate()[0].strip()
    broker = f", broker {_read_cpu_seconds(server) - used:.2f} s" if server else ""
    print(f"{name}: {describe(delays)}; CPU: reader {time.process_time() - own:.2f} s, writer {spent} s{broker}")


def _read_cpu_seconds(server: RedisServer) -> float:
    with redis.Redis.from_url(server.url) as client:
        info: Any = client.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def measure_transport(folder: Path) -> None:
    """Time the same messages over a Redis stream and over a TCP connection."""
    server = RedisServer(folder)
    server.start()
    client, last = redis.Redis.from_url(server.url), ["0"]

    def take_entries() -> list[bytes]:
        found: Any = client.xread({"replies": last[0]}, block=1000)
        entries = [entry for _, entries in found or () for entry in entries]
        last[0] = entries[-1][0] if entries else last[0]
        return [fields[b"replies"] for _, fields in entries]

    read("redis", server.url, take_entries, server)
    client.close()
    server.stop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[Any] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0].makefile("rb")))
        thread.start()

        def take_line() -> list[bytes]:
            thread.join()
            return [accepted[0].readline()]

        read("tcp", str(listener.getsockname()[1]), take_line)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", action="store_true")
    parser.add_argument("--write-redis", help=argparse.SUPPRESS)
    parser.add_argument("--write-tcp", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write_redis:
        write_to_redis(arguments.write_redis)
    elif arguments.write_tcp:
        write_to_socket(arguments.write_tcp)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (measure_transport if arguments.transport else measure_first_token)(Path(folder))


if __name__ == "__main__":
    main()
