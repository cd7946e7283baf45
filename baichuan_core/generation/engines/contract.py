"""What every engine is given and gives back. Prompts are token ids of our tokenizer, whatever the engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from baichuan_core.config import BaichuanConfig
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.tokenizer import BaichuanTokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request chooses its tokens; every value is settled.

    Attributes:
        temperature: Divides the logits; 0 takes the most probable token each time.
        top_k: Choose among the k most probable tokens; 0 means all.
        top_p: Choose among the most probable tokens that hold this share of the probability.
        repetition_penalty: Divides positive and multiplies negative logits of all tokens of prompt and completion so
            far (Keskar et al. 2019), before the temperature.
    """

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """One completion that is wanted. A request for ``n`` of them becomes ``n`` of these with equal ``prompt_ids``.

    Attributes:
        index: The place of the request in the input.
        sample: Which of its completions this is, from 0.
        prompt_ids: The prompt, never empty.
        limit: Most tokens of the completion; prompt and limit fit into the model's window.
        seed: Of the noise, 63 bits. The same seed and prompt give the same text, alone or in any batch.
        sampling: How tokens are chosen.
        stop: Texts that end the completion and are no part of it.
        logprobs: How many alternatives to report for each token; None reports nothing.
    """

    index: int
    sample: int
    prompt_ids: tuple[int, ...]
    limit: int
    seed: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """What the model itself thought of a generated token, before penalty, temperature and filters.

    Attributes:
        token_id: The token.
        logprob: Natural logarithm of its probability.
        alternatives: The most probable ids and their logarithms, best first.
    """

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of a completion as it comes. The pieces of a completion joined are its text.

    A piece never ends inside a character, and text that may turn out to be the beginning of a stop text waits.
    """

    index: int
    sample: int
    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished completion.

    Attributes:
        index: Of its request.
        sample: Which completion of the request.
        text: What the model wrote, without end token and stop text.
        finish_reason: ``stop`` at an end token or stop text, ``length`` at the limit.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, the end token included.
        logprobs: One entry a token of the text, if they were asked for.
    """

    index: int
    sample: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What is new since the step before.

    Attributes:
        tokens: How many tokens were generated, of all completions together.
        deltas: New text, if it was asked to be streamed; a completion's last piece comes before it or with it.
        completions: What has finished.
    """

    tokens: int
    deltas: tuple[TextDelta, ...] = ()
    completions: tuple[Completion, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """What an engine is started with.

    Attributes:
        checkpoint: Directory of the model.
        config: Its configuration.
        settings: The run's options with nothing left open; limits and sampling come with each request.
        end_token_ids: Tokens that end a completion.
        adapter: Directory of a LoRA adapter for the checkpoint.
    """

    checkpoint: Path
    config: BaichuanConfig
    settings: GenerationOptions
    end_token_ids: frozenset[int]
    adapter: Path | None = None


class Engine(Protocol):
    """A loaded model that answers encoded requests."""

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """Answers all requests in whatever order is fastest; closing the iterator ends the work.

        Raises:
            CheckpointError: The model computes NaN.
            UnsupportedError: A request asks for what the engine cannot do, or one alone does not fit into memory.
        """
        ...


class EngineModule(Protocol):
    """A module of this folder."""

    def obstacle(self, setup: EngineSetup) -> str | None:
        """Why the engine cannot run this here, in a few words without its name; None if it can."""
        ...

    def start(self, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
        """Loads the model."""
        ...
