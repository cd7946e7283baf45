"""Resume points, as clients see them."""

from typing import Literal, Self

from pydantic import Field

from api.schemas.pages import IdentifiedObject
from api.schemas.times import to_seconds
from jobs.artifacts.resume_points import ResumePoint


class ResumePointObject(IdentifiedObject):
    """A state from which a fine-tuning job can continue."""

    object: Literal["job.resume_point"] = "job.resume_point"
    job_id: str
    attempt_id: str
    step: int = Field(description="Optimizer step after which the state was saved")
    bytes: int = Field(description="Size of all files, including the optimizer's")
    kind: str | None = Field(description="Kind of model that can be published from it; null if it is sharded")
    created_at: int

    @classmethod
    def from_point(cls, point: ResumePoint) -> Self:
        """Return the resume point as clients see it."""
        return cls(
            id=str(point.step),
            job_id=point.job_id,
            attempt_id=point.attempt_id,
            step=point.step,
            bytes=point.size_bytes,
            kind=point.model.kind if point.model else None,
            created_at=to_seconds(point.saved_at),
        )
