"""Output types that all engines share."""

from dataclasses import dataclass
from typing import Literal

from baichuan_core.errors import BaichuanError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of a generated token, before bias, penalties, temperature and filters are applied.

    Attributes:
        token_id: The token.
        logprob: Natural logarithm of its probability.
        alternatives: The most probable token ids and their log-probabilities, most probable first.
    """

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of a completion. Concatenated, the deltas of a completion form its text and log-probabilities.

    A delta never ends inside a character, and text that may be the start of a stop string is held back until it is
    known not to be. The log-probabilities of a token are in the delta that completes its text.

    Attributes:
        index: Index of the request.
        sample: Index of the completion within its request.
        text: The new text; empty only if a token without text has log-probabilities.
        logprobs: One entry per token of the text, if log-probabilities were requested.
    """

    index: int
    sample: int
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished completion.

    Attributes:
        index: Index of its request.
        sample: Index of the completion within its request.
        text: The text of the completion, without the end token or stop string.
        finish_reason: `stop` if an end token or stop string ended it, `length` if it reached its limit.
        prompt_tokens: Number of tokens in the prompt.
        completion_tokens: Number of tokens generated, including the end token.
        logprobs: One entry per token of the text, if log-probabilities were requested.
    """

    index: int
    sample: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """Progress of one completion.

    Attributes:
        id: The id that `Engine.add_request` returned.
        tokens: Number of tokens generated since the last output of this completion.
        delta: New text, if the completion is streamed.
        completion: The whole completion; set only in its last output.
        error: The error if this completion failed; set only in its last output. Other completions continue.
    """

    id: int
    tokens: int
    delta: TextDelta | None = None
    completion: Completion | None = None
    error: BaichuanError | None = None

    @property
    def is_last(self) -> bool:
        """Whether the completion has finished or failed."""
        return self.completion is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class StepOutputs:
    """The outputs of all completions since the previous step; the outputs of each completion are in order."""

    outputs: tuple[CompletionOutput, ...] = ()

    @property
    def token_count(self) -> int:
        """Number of tokens generated for all completions."""
        return sum(one.tokens for one in self.outputs)

    @property
    def deltas(self) -> tuple[TextDelta, ...]:
        """New text of streamed completions."""
        return tuple(one.delta for one in self.outputs if one.delta)

    @property
    def completions(self) -> tuple[Completion, ...]:
        """The completions that have finished."""
        return tuple(one.completion for one in self.outputs if one.completion)
