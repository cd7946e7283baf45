"""Result of a fine-tuning run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FinetuningReport:
    """What a run did.

    Attributes:
        final_loss: Loss of the last step.
        steps: Steps of the optimizer, those before a resumption included.
        examples: Examples that were trained on.
        tokens: Tokens of these examples.
        dropped_examples: Examples left out because no answer lay within ``max_length``.
        truncated_examples: Examples whose end was cut off.
        validation_examples: Examples of the evaluations.
        trained_parameters: How many numbers were trained.
        resumed_from_step: Step of the checkpoint that training continued from, 0 if it started from the base.
        packing: Whether rows had several examples.
        filled: Fraction of the positions of all batches that were tokens, not padding.
        data_format: Name of the format of the training data.
        chat_format: How chats were written; None for plain text.
        best_step: Step with the lowest evaluation loss, whose weights are the result; None without evaluation.
        best_eval_loss: That loss.
        stopped_early: Whether training ended because the evaluation loss no longer fell.
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
