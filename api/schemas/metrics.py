"""A run's metrics, as one series per metric."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from jobs.service.metrics import BucketedSeries, DownsampledMetrics


class MetricSeries(BaseModel):
    """One metric in buckets of consecutive steps; all lists have the same length, and empty buckets are left out.

    A bucket in which no value is a finite number has null for minimum, maximum and mean.
    """

    name: str
    points: int = Field(description="Number of values logged between start and stop")
    first_step: list[int]
    last_step: list[int]
    count: list[int] = Field(description="Number of values in each bucket")
    nan: list[int] = Field(description="Number of values in each bucket that are NaN or infinite")
    min: list[float | None]
    max: list[float | None]
    mean: list[float | None]

    @classmethod
    def from_series(cls, series: BucketedSeries) -> Self:
        """Return the series as clients see it."""
        return cls(
            name=series.name,
            points=sum(series.count),
            first_step=series.first_step,
            last_step=series.last_step,
            count=series.count,
            nan=series.nan,
            min=series.min,
            max=series.max,
            mean=series.mean,
        )


class JobMetrics(BaseModel):
    """A run's metrics, downsampled without losing peaks, because each bucket keeps its minimum and maximum."""

    object: Literal["job.metrics"] = "job.metrics"
    job_id: str
    source: Literal["live", "artifact", "none"] = Field(description="Where the values were read from")
    names: list[str] = Field(description="Names of all metrics of the run")
    first_step: int | None = Field(description="First logged step of the whole run")
    last_step: int | None = Field(description="Last logged step of the whole run")
    start: int = Field(description="First step of the returned series")
    stop: int = Field(description="Step before which the returned series end")
    series: list[MetricSeries]

    @classmethod
    def from_metrics(cls, job_id: str, found: DownsampledMetrics) -> Self:
        """Return the metrics as clients see them."""
        return cls(
            job_id=job_id,
            source=found.source,
            names=found.names,
            first_step=found.first_step,
            last_step=found.last_step,
            start=found.start,
            stop=found.stop,
            series=[MetricSeries.from_series(series) for series in found.series],
        )
