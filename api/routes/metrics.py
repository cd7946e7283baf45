"""A run's metrics, as one series per metric."""

import asyncio
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import CurrentCaller, Service
from api.responses import json_response
from api.schemas.metrics import JobMetrics
from api.schemas.requests import MetricsQuery
from jobs.artifacts import ArtifactStore
from jobs.records import ArtifactRecord
from jobs.service import metrics
from jobs.service.metrics import DownsampledMetrics, MetricWindow

router = APIRouter(prefix="/v1/jobs/{job_id}/metrics", tags=["jobs"])


@router.get("", response_model=JobMetrics)
async def read_metrics(query: Annotated[MetricsQuery, Query()], job_id: str, caller: CurrentCaller) -> Response:
    """Return the metrics that a run has logged, as the minimum, maximum and mean over buckets of consecutive steps.

    With as many buckets as steps, each bucket contains one step.
    """
    job, names = caller.job_key(job_id), query.names.split(",") if query.names else []
    window = MetricWindow(names, query.start, query.stop, query.buckets)
    found = await caller.service.slow_reader.run(lambda c: metrics.read(c, job, window))
    if found is None:
        artifact = await caller.service.reader.run(lambda c: metrics.find_artifact(c, job))
        found = await asyncio.to_thread(_downsample_artifact, caller.service, artifact, window)
    return json_response(JobMetrics.from_metrics(job_id, found))


def _downsample_artifact(service: Service, artifact: ArtifactRecord | None, window: MetricWindow) -> DownsampledMetrics:
    """Downsample the series that a run has published as a file."""
    points = [] if artifact is None else metrics.parse_series(_read_lines(service.store, artifact))
    return metrics.downsample_points(points, window)


def _read_lines(store: ArtifactStore, artifact: ArtifactRecord) -> Iterator[bytes]:
    rest = b""
    for piece in store.read(artifact.key, 0, artifact.bytes):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest
