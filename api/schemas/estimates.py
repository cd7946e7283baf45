"""The memory that a job would need."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from footprint import Footprint


class EstimateObject(BaseModel):
    """Peak memory of a job, in bytes; the parts add up to the total."""

    object: Literal["estimate"] = "estimate"
    place: Literal["device", "host"] = Field(
        description="Whose memory: the GPU's (the host's if it has none), or the host's"
    )
    total_bytes: int
    weights_bytes: int
    cache_bytes: int
    activations_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    least_bytes: int = Field(description="Needed whatever the lengths and the batch are; with less, the job is refused")

    @classmethod
    def of(cls, footprint: Footprint) -> Self:
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
