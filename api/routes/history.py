"""The history of workers' devices, and usage by API key."""

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import CurrentCaller
from api.responses import json_response
from api.schemas.pool import DeviceHistory, Usage, UsageEntry, WorkerHistory
from api.schemas.requests import HistoryQuery, UsageQuery
from api.schemas.resources import DeviceObject
from api.schemas.times import to_seconds
from jobs.records import UsageRecord
from jobs.service import history
from jobs.service.history import DeviceSeries

router = APIRouter(prefix="/v1")
EPOCH = dt.date(1970, 1, 1)


@router.get("/workers/{worker_id}/history", response_model=WorkerHistory, tags=["workers"])
async def read_history(query: Annotated[HistoryQuery, Query()], worker_id: str, caller: CurrentCaller) -> Response:
    """Return the usage of a worker's devices over the last hour; each point is the maximum of several heartbeats."""
    found = await caller.service.slow_reader.run(lambda c: history.read_history(c, worker_id, query.points))
    shown = WorkerHistory(
        worker_id=worker_id,
        times=[to_seconds(time) for time in found.times],
        host_memory_bytes=found.host.get("memory_bytes"),
        host_available_bytes=found.available_bytes,
        devices=[_to_device_history(each) for each in found.devices],
    )
    return json_response(shown)


@router.get("/usage", response_model=Usage, tags=["usage"])
async def read_usage(query: Annotated[UsageQuery, Query()], caller: CurrentCaller) -> Response:
    """Return the project's usage by day and API key."""
    found = await caller.service.slow_reader.run(lambda c: history.list_usage(c, caller.project_id, query.days))
    return json_response(Usage(data=[_to_usage_entry(each) for each in found]))


def _to_device_history(series: DeviceSeries) -> DeviceHistory:
    device = DeviceObject.from_report(series.device)
    return DeviceHistory(
        uuid=device.uuid,
        type=device.type,
        index=device.index,
        name=device.name,
        memory_bytes=device.memory_bytes,
        **series.values,
    )


def _to_usage_entry(usage: UsageRecord) -> UsageEntry:
    return UsageEntry(
        day=(EPOCH + dt.timedelta(days=usage.day)).isoformat(),
        key_id=usage.key_id,
        key_name=usage.key_name,
        jobs=usage.jobs,
        device_seconds=usage.device_ms / 1000,
        tokens=usage.tokens,
    )
