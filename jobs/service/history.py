"""The history of machines over the last hour, and the usage of API keys."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.database.journal import DAY_MS
from jobs.errors import NotFoundError
from jobs.records import Json, UsageRecord, WorkerSampleRecord
from jobs.repository import samples, workers

HOUR_MS = 3_600_000
MEASUREMENTS = ("used_bytes", "utilization", "temperature")


@dataclass(slots=True)
class DeviceSeries:
    """A device as last reported, with its measurements over time."""

    device: Json
    values: dict[str, list[int | None]] = field(default_factory=lambda: {name: [] for name in MEASUREMENTS})


@dataclass(slots=True)
class MachineHistory:
    """A worker's machine over time; `times` are milliseconds since the epoch."""

    times: list[int]
    host: Json
    available_bytes: list[int | None]
    devices: list[DeviceSeries]


def read_history(connection: Connection, worker_id: str, points: int) -> MachineHistory:
    """Return a machine's last hour in at most `points` points, each with the peak values of several heartbeats.

    Raises:
        NotFoundError: no worker with this id has ever reported.
    """
    if not workers.exists(connection, worker_id):
        raise NotFoundError(
            f"there is no worker {worker_id!r}; `GET /v1/workers` lists the running workers", param="worker_id"
        )
    now = now_ms(connection)
    found = samples.list_since(connection, worker_id, now - HOUR_MS)
    return _merge_samples(found, now - HOUR_MS, points)


def list_usage(connection: Connection, project_id: str, days: int) -> list[UsageRecord]:
    """Return the daily usage of each of a project's keys over the last `days` days, including today, oldest first."""
    today = now_ms(connection) // DAY_MS
    return samples.list_usage(connection, project_id, from_day=today - days + 1)


def _merge_samples(found: Sequence[WorkerSampleRecord], since: int, points: int) -> MachineHistory:
    groups: dict[int, list[WorkerSampleRecord]] = {}
    for sample in found:
        groups.setdefault(min((sample.at - since) * points // HOUR_MS, points - 1), []).append(sample)
    devices = {device["uuid"]: device for sample in found for device in sample.devices}
    series = [DeviceSeries(device) for device in devices.values()]
    for group in groups.values():
        measured = [{device["uuid"]: device for device in sample.devices} for sample in group]
        for each in series:
            states = [state.get(each.device["uuid"], {}) for state in measured]
            for name, values in each.values.items():
                values.append(_find_extreme(max, (state.get(name) for state in states)))
    return MachineHistory(
        times=[group[-1].at for group in groups.values()],
        host=found[-1].host if found else {},
        available_bytes=[
            _find_extreme(min, (sample.host.get("available_bytes") for sample in group)) for group in groups.values()
        ],
        devices=series,
    )


def _find_extreme(choose: Callable[[Iterable[Any]], Any], values: Iterable[Any]) -> int | None:
    known = [value for value in values if value is not None]
    return int(choose(known)) if known else None
