"""Spec of a preview job, which shows training data as a fine-tuning run would read it."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from footprint import Footprint
from jobs.specs.fields import FileId
from jobs.specs.job_spec import ModelInputSpec
from jobs.specs.model_properties import ModelProperties


class PreviewSpec(ModelInputSpec):
    """A preview of training data: the first examples as tokens, all lengths, and how many are truncated or dropped."""

    produces_model: ClassVar[bool] = False

    kind: Literal["preview"] = "preview"
    training_file: FileId = Field(description="Examples in any format that a fine-tune accepts")
    max_length: int = Field(512, ge=8, le=32_768, description="Number of tokens after which an example is cut")
    examples: int = Field(3, ge=1, le=10, description="Number of examples to show")
    max_examples: int = Field(10_000, ge=1, le=100_000_000, description="Maximum number of examples to read")

    def list_file_references(self) -> dict[str, str]:
        """See `JobSpec.list_file_references`."""
        return {"training_file": self.training_file}

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002
        """See `JobSpec.estimate_footprints`; only the tokenizer is loaded."""
        return []
