"""The requirements of a job, determined without submitting it."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from api.schemas.estimates import EstimateObject
from api.schemas.jobs import RequirementObject
from jobs.service.previews import JobPreview


class DryRunObject(BaseModel):
    """The response to a dry run: the job would be accepted, but has not been created."""

    object: Literal["job.dry_run"] = "job.dry_run"
    requirements: RequirementObject
    estimate: EstimateObject | None = Field(description="null if the model's dimensions are unknown")
    queue_position: int = Field(description="The job's position in the queue if it were submitted now; 1 is the first")

    @classmethod
    def from_preview(cls, found: JobPreview) -> Self:
        """Return the preview as clients see it."""
        return cls(
            requirements=RequirementObject.from_row(found.requirement.to_row()),
            estimate=None if found.estimate is None else EstimateObject.from_footprint(found.estimate),
            queue_position=found.queue_position,
        )
