"""Result of a finetune job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result


class FinetuneResult(Result):
    """Outcome of the training; a field added later needs a default, so that stored results stay readable."""

    kind: Literal["finetune"] = "finetune"
    final_loss: FiniteFloat = Field(description="Loss of the last step")
    steps: int = Field(description="Steps of the optimizer, with those of earlier attempts")
    examples: int = Field(description="Examples that were trained on")
    dropped_examples: int = Field(description="Examples left out because max_length cuts every answer")
    truncated_examples: int = Field(description="Examples that max_length cut")
    trained_parameters: int = Field(description="Parameters that were trained")
    resumed_from_step: int = Field(description="Step at which the last attempt continued, 0 for the beginning")
    tokens: int = Field(0, description="Tokens of the examples")
    validation_examples: int = Field(0, description="Examples of the evaluations")
    packing: bool = Field(default=False, description="Whether rows had several examples")
    filled: FiniteFloat = Field(
        None, description="Fraction of the positions of all batches that were tokens, not padding"
    )
    data_format: str = Field("published", description="Name of the format of the training data")
    chat_format: str | None = Field(
        None, description='How chats were written: "baichuan2", "baichuan1-13b" or "chat_template"; null for plain text'
    )
    best_step: int | None = Field(
        None, description="Step with the lowest evaluation loss, whose weights are the result"
    )
    best_eval_loss: FiniteFloat = Field(None, description="That loss")
    stopped_early: bool = Field(
        default=False, description="Whether training ended because the evaluation loss no longer fell"
    )
