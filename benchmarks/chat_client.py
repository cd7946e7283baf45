"""Client that runs many streamed chats at the same time and measures them."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx


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


def measure(url: str, key: str, bodies: Sequence[Mapping[str, Any]]) -> Measurement:
    """Send one chat request per body at the same time, and read all streams to their ends."""
    return asyncio.run(_measure(url, key, bodies))


async def _measure(url: str, key: str, bodies: Sequence[Mapping[str, Any]]) -> Measurement:
    measured = Measurement()
    limits = httpx.Limits(max_connections=len(bodies))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=600) as client:
        began = time.perf_counter()
        await asyncio.gather(*(_read(client, body, measured) for body in bodies))
        measured.seconds = time.perf_counter() - began
    return measured


async def _read(client: httpx.AsyncClient, body: Mapping[str, Any], measured: Measurement) -> None:
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    began, waits = time.perf_counter(), True
    async with client.stream("POST", "/v1/chat/completions", json=streamed) as answer:
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if waits and '"content":"' in line and '"content":""' not in line:
                measured.first_text.append(time.perf_counter() - began)
                waits = False
            if '"choices":[]' in line:
                measured.tokens += json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
