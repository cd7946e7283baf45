"""Queries on the `metric_points` table."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import insert
from jobs.database.tables import MetricPoint


@dataclass(frozen=True, slots=True)
class MetricSpan:
    """The first and last step of one metric of a run."""

    name: str
    first_step: int
    last_step: int


def save(connection: Connection, job_id: str, rows: Sequence[Mapping[str, Any]], *, attempt: int) -> None:
    """Store the points of an attempt; each row has a `name`, a `step` and a `value`.

    A resumed run repeats steps, so points of earlier attempts at or after the first new step are deleted.
    """
    first: dict[str, int] = {}
    for row in rows:
        first[row["name"]] = min(first.get(row["name"], row["step"]), row["step"])
    for name, step in first.items():
        outdated = sa.delete(MetricPoint).where(
            MetricPoint.job_id == job_id, MetricPoint.name == name, MetricPoint.step >= step
        )
        connection.execute(outdated.where(MetricPoint.attempt != attempt))
    statement = insert(connection, MetricPoint)
    replace = statement.on_conflict_do_update(
        index_elements=[MetricPoint.job_id, MetricPoint.name, MetricPoint.step],
        set_={"value": statement.excluded.value, "attempt": statement.excluded.attempt},
    )
    unique = {(row["name"], row["step"]): row["value"] for row in rows}  # an upsert cannot change the same row twice
    values = [
        {"job_id": job_id, "name": name, "step": step, "attempt": attempt, "value": value}
        for (name, step), value in unique.items()
    ]
    connection.execute(replace, values)


def remove(connection: Connection, job_ids: Collection[str]) -> None:
    """Delete the points of these jobs."""
    connection.execute(sa.delete(MetricPoint).where(MetricPoint.job_id.in_(list(job_ids))))


def list_spans(connection: Connection, job_id: str) -> list[MetricSpan]:
    """Return the metrics of a run with their first and last steps, by name, using index lookups instead of a scan."""
    found: list[MetricSpan] = []
    while name := connection.execute(_select_next_name(job_id, found[-1].name if found else "")).scalar_one_or_none():
        steps = sa.select(sa.func.min(MetricPoint.step)).where(MetricPoint.job_id == job_id, MetricPoint.name == name)
        first = connection.execute(steps).scalar_one()
        last = connection.execute(steps.with_only_columns(sa.func.max(MetricPoint.step))).scalar_one()
        found.append(MetricSpan(name, first, last))
    return found


def downsample(
    connection: Connection, job_id: str, names: Collection[str], *, start: int, stop: int, buckets: int
) -> Sequence[sa.Row[Any]]:
    """Return name, first and last step, count, finite count, minimum, maximum and mean of each non-empty bucket.

    Bucket i of b contains the steps in [start + (stop - start) * i / b, start + (stop - start) * (i + 1) / b).
    """
    point = MetricPoint
    bucket = sa.cast(point.step - start, sa.BigInteger) * buckets // (stop - start)
    query = (
        sa.select(
            point.name,
            sa.func.min(point.step),
            sa.func.max(point.step),
            sa.func.count(),
            sa.func.count(point.value),
            sa.func.min(point.value),
            sa.func.max(point.value),
            sa.func.avg(point.value),
        )
        .where(point.job_id == job_id, point.name.in_(list(names)), point.step >= start, point.step < stop)
        .group_by(point.name, bucket)
        .order_by(point.name, sa.func.min(point.step))
    )
    return connection.execute(query).all()


def _select_next_name(job_id: str, name: str) -> sa.Select[str]:
    query = sa.select(MetricPoint.name).where(MetricPoint.job_id == job_id, MetricPoint.name > name)
    return query.order_by(MetricPoint.name).limit(1)
