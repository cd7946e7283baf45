"""Result of a fine-tuning run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FinetuningReport:
    """The result of a fine-tuning run.

    Attributes:
        final_loss: Loss of the last step.
        steps: Number of optimizer steps, including those before the run was resumed.
        examples: Number of training examples.
        tokens: Number of tokens of these examples.
        dropped_examples: Number of examples dropped because they had no answer within `max_length`.
        truncated_examples: Number of examples whose end was cut off.
        validation_examples: Number of examples used for evaluation.
        trained_parameters: Number of trained parameters.
        resumed_from_step: Step of the resume point that training resumed from; 0 if it started from the base.
        packing: Whether short examples were packed into rows.
        filled: Fraction of the positions in all batches that held tokens, not padding.
        data_format: Name of the format of the training data.
        chat_format: Chat format of the examples; None for plain text.
        best_step: Step with the lowest evaluation loss, whose weights are the result; None without evaluation.
        best_eval_loss: Evaluation loss at that step.
        stopped_early: Whether training stopped because the evaluation loss no longer decreased.
    """

    final_loss: float
    steps: int
    examples: int
    tokens: int
    dropped_examples: int
    truncated_examples: int
    validation_examples: int
    trained_parameters: int
    resumed_from_step: int
    packing: bool
    filled: float
    data_format: str
    chat_format: str | None = None
    best_step: int | None = None
    best_eval_loss: float | None = None
    stopped_early: bool = False
