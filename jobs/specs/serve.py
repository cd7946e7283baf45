"""Spec of a serve job, which loads a model and answers chats with it."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from footprint import Footprint
from jobs.specs.model_properties import ModelProperties
from jobs.specs.text_generation import TextGenerationSpec

MONTH_SECONDS = 2_592_000


class ServeSpec(TextGenerationSpec):
    """A job that loads a model and answers chats until none arrives for a while.

    The model then stays loaded, as after any other job.
    """

    hands_over: ClassVar[bool] = True

    kind: Literal["serve"]
    idle_seconds: float = Field(
        30,
        ge=0,
        le=86_400,
        description="The job succeeds when no chat arrives for this long; 0 means as soon as the model is loaded",
    )
    max_attempts: int = Field(2, ge=1, le=10, description="Maximum number of attempts if workers are lost")
    timeout_seconds: int = Field(MONTH_SECONDS, ge=1, le=MONTH_SECONDS, description="How long one attempt may run")

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the same on CPU and GPU
        """See `JobSpec.estimate_footprints`; chats may be of any length."""
        return [
            self.estimate_open_batch_memory(model, [model.shape.context_length] * self.batch_size, max_new_tokens=1)
        ]
