"""Progress of a job."""

from pydantic import Field

from jobs.results.fields import Metric
from jobs.specs.fields import StrictModel


class JobProgress(StrictModel):
    """The latest report of a running attempt."""

    fraction: float = Field(description="Fraction of the whole job that is done, from 0 to 1")
    stage: str = Field("", description='What is being done, e.g. "loading" or "training"')
    metrics: dict[str, Metric] = Field(
        default_factory=dict, description='Metrics by name, e.g. "loss" or "tokens_per_second"; null if not finite'
    )
