"""The memory that a job would need."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from footprint import Footprint


class EstimateObject(BaseModel):
    """Peak memory of a job, in bytes; the parts add up to the total."""

    object: Literal["estimate"] = "estimate"
    place: Literal["device", "host"] = Field(
        description="`device` is the GPU's memory, or host memory if there is no GPU; `host` is always host memory"
    )
    total_bytes: int
    weights_bytes: int
    cache_bytes: int
    activations_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    least_bytes: int = Field(description="Minimum regardless of lengths and batch size; with less, the job is rejected")

    @classmethod
    def from_footprint(cls, footprint: Footprint) -> Self:
        """Return the estimate as clients see it."""
        return cls(
            place=footprint.place,
            total_bytes=footprint.total,
            weights_bytes=footprint.weights,
            cache_bytes=footprint.cache,
            activations_bytes=footprint.activations,
            gradients_bytes=footprint.gradients,
            optimizer_bytes=footprint.optimizer,
            least_bytes=footprint.least,
        )
