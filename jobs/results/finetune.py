"""Result of a finetune job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result


class FinetuneResult(Result):
    """The outcome of training; a field that is added later needs a default, so that stored results stay readable."""

    kind: Literal["finetune"] = "finetune"
    final_loss: FiniteFloat = Field(description="Loss at the last step")
    steps: int = Field(description="Number of optimizer steps, including those of earlier attempts")
    examples: int = Field(description="Number of examples that were trained on")
    dropped_examples: int = Field(description="Number of examples dropped because max_length cuts off every answer")
    truncated_examples: int = Field(description="Number of examples that were cut to max_length")
    trained_parameters: int = Field(description="Number of parameters that were trained")
    resumed_from_step: int = Field(
        description="Step from which the last attempt resumed; 0 if it started from the beginning"
    )
    tokens: int = Field(0, description="Number of tokens in the examples")
    validation_examples: int = Field(0, description="Number of examples used for evaluation")
    packing: bool = Field(default=False, description="Whether short examples were packed into rows")
    filled: FiniteFloat = Field(
        None, description="Fraction of all batch positions that held tokens rather than padding"
    )
    data_format: str = Field("published", description="Format of the training data")
    chat_format: str | None = Field(
        None, description='How chats were written: "baichuan2", "baichuan1-13b" or "chat_template"; null for plain text'
    )
    best_step: int | None = Field(
        None, description="Step with the lowest evaluation loss, whose weights are the result"
    )
    best_eval_loss: FiniteFloat = Field(None, description="Evaluation loss at best_step")
    stopped_early: bool = Field(
        default=False, description="Whether training ended because the evaluation loss had stopped falling"
    )
