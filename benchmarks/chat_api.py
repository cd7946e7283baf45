"""Measure the CPU time that chats take in the API process, without a model; see benchmarks/README.md.

Usage: python -m benchmarks.chat_api [--streams 1 64] [--tokens 200] [--pace 20]

A simulated runner replies with one token per stream in each step, `--pace` steps per second, and sends all replies of a
step together. The results are the fraction of one core that the API process uses, with and without serializing the
chunks, and the time from a request to its first text. Fails if 64 streams use more than half a core without the
serialization.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import redis

from api.openai.completion_objects import Choice, ChunkFormatter
from benchmarks.chat_client import Measurement, measure
from jobs.bootstrap import prepare_deployment
from jobs.chats.messages import (
    CALL_ADAPTER,
    REPLIES_ADAPTER,
    ChatEnded,
    ChatRequest,
    ChatStarted,
    ChoiceEnded,
    Delta,
    Reply,
    call_queue_key,
    reply_stream_key,
)
from jobs.database import Database
from jobs.settings import Settings
from tests.jobs.pool import hold, start_on
from tests.model_files import write_model_files
from tests.workers.deployment import RedisServer, free_port, wait_for

KEY = "bj-administrator-of-the-benchmark"
MAX_CORE_FRACTION = 0.5
LIMITED_STREAMS = 64
TEXT = " word"
POLL_SECONDS = 0.002  # polling interval of the simulated runner


def simulate_runner(url: str, attempt_id: str, pace: float) -> None:
    """Answer chats like a runner whose steps take `1 / pace` seconds."""
    client = redis.Redis.from_url(url)
    open_chats: dict[str, tuple[ChatRequest, int]] = {}
    queue, due = call_queue_key(attempt_id), time.monotonic()
    while True:
        found = client.lpop(queue)
        if found is None:
            time.sleep(POLL_SECONDS)
        replies_by_process: dict[str, list[Reply]] = {}
        while isinstance(found, bytes):
            call = CALL_ADAPTER.validate_json(found)
            if isinstance(call, ChatRequest):
                open_chats[call.id] = (call, 2)
                first: list[Reply] = [ChatStarted(call.id, 0, 5), Delta(call.id, 1, 0, TEXT)]
                replies_by_process.setdefault(call.reply_to, []).extend(first)
            else:
                open_chats.pop(call.id, None)
            found = client.lpop(queue)
        if open_chats and time.monotonic() >= due:
            due = max(due + 1 / pace, time.monotonic())
            for ask, number in list(open_chats.values()):
                replies = replies_by_process.setdefault(ask.reply_to, [])
                if number <= ask.request["max_new_tokens"]:
                    replies.append(Delta(ask.id, number, 0, TEXT))
                    open_chats[ask.id] = (ask, number + 1)
                else:
                    replies += [ChoiceEnded(ask.id, number, 0, "stop", number - 1), ChatEnded(ask.id, number + 1)]
                    del open_chats[ask.id]
        for process, replies in replies_by_process.items():
            client.xadd(reply_stream_key(process), {"replies": REPLIES_ADAPTER.dump_json(replies)}, maxlen=10_000)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis server until the end of the block, and yield its URL."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def simulated_runner(settings: Settings, attempt_id: str, pace: float) -> Iterator[None]:
    """Run a process that answers the chats of an attempt, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=simulate_runner, args=(settings.effective_redis_url, attempt_id, pace), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextmanager
def api_process(settings: Settings, port: int) -> Iterator[psutil.Process]:
    """Run `python -m api` until the end of the block."""
    environment = {
        "BAICHUAN_HOME": str(settings.home),
        "REDIS_URL": settings.effective_redis_url,
        "BAICHUAN_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-m", "api"], env=os.environ | environment, stderr=subprocess.DEVNULL)
    try:
        wait_for("the API", lambda: is_ready(port))
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    """Whether the API answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.HTTPError:
        return False


def serve_model(settings: Settings, url: str) -> str:
    """Register a model and start an attempt that serves it; return the attempt's id."""
    folder = settings.allowed_model_roots[0] / "base"
    write_model_files(folder)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        client.post("/v1/models", json={"id": "base", "path": str(folder)}).raise_for_status()
        job = client.post("/v1/jobs", json={"kind": "serve", "model": "base"}).raise_for_status().json()
    database = Database(settings.effective_database_url)
    with database.writing() as connection:
        attempt_id = start_on(connection, job["id"], "wrk-1", settings)
        hold(connection, attempt_id, "wrk-1", settings).renew(None, [], accepts_chats=True)
    database.close()
    return attempt_id


def used_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def serialization_seconds() -> float:
    """Return the CPU seconds that serializing one chunk of a stream takes."""
    writer, choice, rounds = ChunkFormatter("chatcmpl-x", 0, "base", is_chat=True, counts=True), Choice(0), 20_000
    began = time.process_time()
    for _ in range(rounds):
        writer.format_text_chunk(choice, TEXT, ()).encode()
    return (time.process_time() - began) / rounds


def report(streams: int, measured: Measurement, used: float) -> float:
    """Print one round, and return the fraction of a core used without serializing chunks."""
    serialization = serialization_seconds() * measured.tokens
    fraction, without = used / measured.seconds, (used - serialization) / measured.seconds
    first = sorted(measured.first_text)
    print(
        f"{streams:3} streams: {measured.tokens_per_second:6.0f} tokens/s, first text after"
        f" {statistics.median(first) * 1000:.1f} ms (slowest {first[-1] * 1000:.1f} ms),"
        f" {fraction:.2f} of a core, {without:.2f} without serializing chunks"
    )
    return without


def main() -> None:
    """Measure each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=200, help="per stream")
    parser.add_argument("--pace", type=float, default=20, help="steps per second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as redis_url:
        settings, port = Settings(home=Path(folder) / "home", redis_url=redis_url), free_port()
        url = f"http://127.0.0.1:{port}"
        prepare_deployment(settings, KEY)
        with api_process(settings, port) as api, simulated_runner(settings, serve_model(settings, url), options.pace):
            body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": options.tokens}
            measure(url, KEY, [{**body, "max_tokens": 3}] * 4)
            fractions = {}
            for streams in options.streams:
                before = used_seconds(api)
                measured = measure(url, KEY, [body] * streams)
                fractions[streams] = report(streams, measured, used_seconds(api) - before)
    if fractions.get(LIMITED_STREAMS, 0) > MAX_CORE_FRACTION:
        sys.exit(
            f"{LIMITED_STREAMS} streams use {fractions[LIMITED_STREAMS]:.2f} of a core;"
            f" at most {MAX_CORE_FRACTION} is allowed"
        )


if __name__ == "__main__":
    main()
