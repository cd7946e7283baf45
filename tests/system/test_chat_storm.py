"""Two hundred streamed chats, some of which hang up, while runners are killed and the model changes."""

import asyncio
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from examples.tiny_checkpoint import make_tiny_checkpoint
from tests.cli.shell import Up
from tests.system.conftest import Service, start
from tests.workers.deployment import wait_for

CHATS, AT_ONCE, PHASE = 200, 16, 50
RETRY_STATUS = (429, 503)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Service]]:
    """A service with two models."""
    up, service = start(tmp_path_factory.mktemp("storm"), BAICHUAN_LEASE_SECONDS="10")
    try:
        for seed, name in enumerate(("tiny", "other")):
            make_tiny_checkpoint(service.models / name, seed=seed)
            assert service.register(name, service.models / name).status_code == 201
        yield up, service
    finally:
        service.http.close()
        up.end()


class Storm:
    """Sends chats and records how each stream ended."""

    def __init__(self, up: Up, service: Service, seed: int) -> None:
        self.ends = Counter[str]()
        self.kills = 0
        self._up = up
        self._random = random.Random(seed)  # noqa: S311 - which chat hangs up is no secret
        self._url = str(service.http.base_url)
        self._headers = {"Authorization": service.http.headers["Authorization"]}
        self._free = asyncio.Semaphore(AT_ONCE)

    async def run(self, count: int, *, kill: bool) -> None:
        """Send chats, and perhaps kill a runner in the middle of each phase."""
        limits = httpx.Limits(max_connections=AT_ONCE)
        async with httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=120, limits=limits) as client:
            for first in range(0, count, PHASE):
                model = ("tiny", "other")[first // PHASE % 2]
                chats = [asyncio.create_task(self._chat(client, model, first + number)) for number in range(PHASE)]
                await asyncio.wait(chats[: PHASE // 2])
                if kill:
                    self._kill_a_runner()
                await asyncio.gather(*chats)

    async def _chat(self, client: httpx.AsyncClient, model: str, number: int) -> None:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"chat {number}"}],
            "max_tokens": self._random.choice((3, 40, 200)),
            "temperature": 1,
            "seed": number,
            "logit_bias": {"2": -100},
            "stream": True,
        }
        hangs_up = self._random.random() < 0.15
        async with self._free:
            while not (end := await self._read(client, body, hangs_up=hangs_up)):
                pass  # as the official client does after 429 and 503
        self.ends[end] += 1

    async def _read(self, client: httpx.AsyncClient, body: dict[str, Any], *, hangs_up: bool) -> str | None:
        """Return how a stream ended; None if it must be asked for again."""
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code in RETRY_STATUS:
                assert 1 <= int(answer.headers["Retry-After"]) <= 120
                await asyncio.sleep(0.5)
                return None
            assert answer.status_code == httpx.codes.OK, await answer.aread()
            last = event = ""
            async for line in answer.aiter_lines():
                if hangs_up and '"content":"' in line:
                    return "hung up"
                if line.startswith("data: "):
                    event, last = last, line.removeprefix("data: ")
        if last == "[DONE]":
            return "error" if '"error"' in event else "done"
        assert "error" in json.loads(last), last
        return "error"

    def _kill_a_runner(self) -> None:
        for process in psutil.Process(self._up.process.pid).children(recursive=True):
            parent = process.parent()
            if parent is not None and is_fork_server(parent) and is_fork_server(process):
                process.kill()
                self.kills += 1
                return


def is_fork_server(process: psutil.Process) -> bool:
    """Whether a process is a fork server, or was forked from one."""
    try:
        return "workers.fork_server" in process.cmdline()
    except psutil.Error:
        return False


def count_open(up: Up) -> Counter[str]:
    """Return the open files and threads of each long-lived process, by its module, and the number of zombies."""
    counts = Counter[str]()
    for process in psutil.Process(up.process.pid).children(recursive=True):
        if process.status() == psutil.STATUS_ZOMBIE:
            counts["zombies"] += 1
            continue
        command = process.cmdline()
        module = command[command.index("-m") + 1] if "-m" in command else ""
        if module in ("api", "workers", "jobs.dispatcher"):
            counts[f"{module} files"], counts[f"{module} threads"] = process.num_fds(), process.num_threads()
    return counts


def count_rows(up: Up, state: str) -> int:
    """Return the number of chats in a state."""
    with sqlite3.connect(f"file:{up.home / 'jobs.sqlite3'}?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM chats WHERE state = ?", [state]).fetchone()[0])


@pytest.mark.alone
def test_every_stream_ends_with_done_or_an_error_and_nothing_leaks(running: tuple[Up, Service]) -> None:
    up, service = running
    # Connections to SQL and Redis are opened on demand, one per concurrent chat at most, and kept.
    asyncio.run(Storm(up, service, seed=0).run(PHASE, kill=False))
    before = count_open(up)
    storm = Storm(up, service, seed=1)
    asyncio.run(storm.run(CHATS, kill=True))
    assert sum(storm.ends.values()) == CHATS
    assert storm.kills >= 1
    assert storm.ends["done"] > CHATS / 2, storm.ends
    assert storm.ends["hung up"] > 0, storm.ends
    wait_for("all chats to have ended", lambda: count_rows(up, "running") == 0)

    def has_returned() -> bool:
        return all(count <= before[name] + 8 for name, count in count_open(up).items())

    wait_for(f"open files and threads of {before}, not {count_open(up)}", has_returned)
