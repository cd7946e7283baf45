"""Metrics of runs, recorded at every logged step and read in buckets that keep the minimum and the maximum."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection

from jobs.records import ArtifactRecord
from jobs.repository import files, metrics
from jobs.service.jobs import JobKey, require_job

ARTIFACT_PATH = "training/series.jsonl"
NON_METRIC_FIELDS = frozenset({"step", "steps", "eta_seconds"})  # progress values, not measurements


@dataclass(frozen=True, slots=True)
class Point:
    """The values that a run logged at one step; NaN and infinity are replaced by None."""

    step: int
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class MetricWindow:
    """A request for metrics of a run: the names, the steps [start, stop), by default all, and the number of buckets."""

    names: Collection[str]
    start: int | None
    stop: int | None
    buckets: int


@dataclass(slots=True)
class BucketedSeries:
    """One metric in buckets; all lists have one entry per non-empty bucket."""

    name: str
    first_step: list[int] = field(default_factory=list)
    last_step: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    nan: list[int] = field(default_factory=list)
    min: list[float | None] = field(default_factory=list)
    max: list[float | None] = field(default_factory=list)
    mean: list[float | None] = field(default_factory=list)

    def add(self, row: Sequence[Any]) -> None:
        """Add a bucket: first and last step, count, finite count, minimum, maximum, mean."""
        first, last, count, finite, low, high, mean = row
        self.first_step.append(first)
        self.last_step.append(last)
        self.count.append(count)
        self.nan.append(count - finite)
        self.min.append(low)
        self.max.append(high)
        self.mean.append(mean)


@dataclass(frozen=True, slots=True)
class DownsampledMetrics:
    """Metrics of a run, aggregated into buckets, and the names of all metrics that it logged."""

    source: Literal["live", "artifact", "none"]
    names: list[str]
    first_step: int | None
    last_step: int | None
    start: int
    stop: int
    series: list[BucketedSeries]


def to_point(reported: Mapping[str, float | None]) -> Point | None:
    """Return the point in a progress report, or None if the report has no step or no metrics."""
    step = reported.get("step")
    values = {name: _replace_non_finite(value) for name, value in reported.items() if name not in NON_METRIC_FIELDS}
    return Point(int(step), values) if step is not None and values else None


def record(connection: Connection, job_id: str, attempt: int, points: Sequence[Point]) -> None:
    """Store points logged by the attempt with this number."""
    rows = [
        {"name": name, "step": point.step, "value": value} for point in points for name, value in point.values.items()
    ]
    if rows:
        metrics.save(connection, job_id, rows, attempt=attempt)


def read(connection: Connection, key: JobKey, window: MetricWindow) -> DownsampledMetrics | None:
    """Return the metrics of a run from the database; None if it has none.

    Raises:
        NotFoundError: there is no such job.
    """
    require_job(connection, key)
    spans = metrics.list_spans(connection, key.job_id)
    if not spans:
        return None
    names = [span.name for span in spans]
    steps = (min(span.first_step for span in spans), max(span.last_step for span in spans))
    start, stop = _resolve_step_range(window, *steps)
    chosen = {name: BucketedSeries(name) for name in names if not window.names or name in window.names}
    for row in metrics.downsample(connection, key.job_id, chosen, start=start, stop=stop, buckets=window.buckets):
        chosen[row[0]].add(row[1:])
    return DownsampledMetrics("live", names, *steps, start, stop, list(chosen.values()))


def find_artifact(connection: Connection, key: JobKey) -> ArtifactRecord | None:
    """Return the artifact with the metrics of a job, for runs whose points are not in the database."""
    require_job(connection, key)
    return files.get_artifact(connection, key.job_id, ARTIFACT_PATH)


def parse_series(lines: Iterable[bytes]) -> list[Point]:
    """Parse the metrics file of a run."""
    entries = (json.loads(line) for line in lines if line.strip())
    points = (to_point({name: value for name, value in entry.items() if _is_number(value)}) for entry in entries)
    return [point for point in points if point is not None]


def downsample_points(points: Sequence[Point], window: MetricWindow) -> DownsampledMetrics:
    """Downsample points in memory the way `read` does in SQL."""
    if not points:
        return DownsampledMetrics("none", [], None, None, window.start or 0, window.stop or 0, [])
    names = sorted({name for point in points for name in point.values})
    steps = (min(point.step for point in points), max(point.step for point in points))
    start, stop = _resolve_step_range(window, *steps)
    series = []
    for name in names:
        if not window.names or name in window.names:
            values = {p.step: p.values[name] for p in points if name in p.values and start <= p.step < stop}
            series.append(_downsample_series(name, values, start, stop, window.buckets))
    return DownsampledMetrics("artifact", names, *steps, start, stop, series)


def _downsample_series(
    name: str, values: Mapping[int, float | None], start: int, stop: int, buckets: int
) -> BucketedSeries:
    grouped: dict[int, list[int]] = {}
    for step in sorted(values):
        grouped.setdefault((step - start) * buckets // (stop - start), []).append(step)
    series = BucketedSeries(name)
    for steps in grouped.values():
        finite = [value for step in steps if (value := values[step]) is not None]
        summary = (min(finite), max(finite), sum(finite) / len(finite)) if finite else (None, None, None)
        series.add((steps[0], steps[-1], len(steps), len(finite), *summary))
    return series


def _resolve_step_range(window: MetricWindow, first_step: int, last_step: int) -> tuple[int, int]:
    """Return the steps [start, stop) of a window, which is at least one step long."""
    start = first_step if window.start is None else window.start
    stop = last_step + 1 if window.stop is None else window.stop
    return start, max(stop, start + 1)


def _replace_non_finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
