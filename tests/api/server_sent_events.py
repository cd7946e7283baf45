"""Read server-sent events like a browser."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.api.conftest import Api

STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Event:
    """One event of a stream."""

    id: int
    name: str
    data: dict[str, Any]


@contextmanager
def following(api: Api, after: int | None = None, client: httpx.Client | None = None) -> Iterator[Iterator[Event]]:
    """Follow the events of the project, after the event `after` or from now on."""
    headers = STREAM if after is None else {**STREAM, "Last-Event-ID": str(after)}
    with (client or api.client).stream("GET", "/v1/events", headers=headers) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield parse(answer.iter_lines())


def parse(lines: Iterator[str]) -> Iterator[Event]:
    """Parse the events in the lines of a stream, without comments."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
