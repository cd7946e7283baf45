"""Result of a finetune job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import Figure, Result


class FinetuneResult(Result):
    """Outcome of the training; a field added later needs a default, so that stored results stay readable."""

    kind: Literal["finetune"] = "finetune"
    final_loss: Figure = Field(description="Loss of the last step")
    steps: int = Field(description="Steps of the optimizer, with those of earlier attempts")
    examples: int = Field(description="Examples that were trained on")
    dropped_examples: int = Field(description="Examples left out because max_length cuts every answer")
    truncated_examples: int = Field(description="Examples that max_length cut")
    trained_parameters: int = Field(description="Parameters that were trained")
    resumed_from_step: int = Field(description="Step at which the last attempt continued, 0 for the beginning")
