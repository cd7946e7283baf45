"""Client that runs many streamed chats at the same time and measures them."""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

FIRST_TEXT = re.compile(r'"(content|text)":"[^"]')


@dataclass(slots=True)
class Measurement:
    """One round of streams: seconds to the first text of each stream, number of tokens, and total seconds."""

    first_text: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all streams per second."""
        return self.tokens / self.seconds


def measure(url: str, key: str, bodies: Sequence[Mapping[str, Any]], path: str = "/v1/chat/completions") -> Measurement:
    """Send one chat request per body at the same time, and read all streams to their ends."""
    return asyncio.run(_measure(url, key, bodies, path))


async def _measure(url: str, key: str, bodies: Sequence[Mapping[str, Any]], path: str) -> Measurement:
    measured = Measurement()
    limits = httpx.Limits(max_connections=len(bodies))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=600) as client:
        began = time.perf_counter()
        await asyncio.gather(*(_read(client, path, body, measured) for body in bodies))
        measured.seconds = time.perf_counter() - began
    return measured


async def _read(client: httpx.AsyncClient, path: str, body: Mapping[str, Any], measured: Measurement) -> None:
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    began, waits = time.perf_counter(), True
    async with client.stream("POST", path, json=streamed) as answer:
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if waits and FIRST_TEXT.search(line):
                measured.first_text.append(time.perf_counter() - began)
                waits = False
            if '"usage":{' in line:  # once per stream: from the service in a chunk without choices
                measured.tokens += json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
