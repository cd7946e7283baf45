"""The input and the interface of every engine. Prompts are token ids of our tokenizer, whatever the engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from baichuan_core.config import BaichuanConfig
from baichuan_core.generation.engines.outputs import Step
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.tokenizer import BaichuanTokenizer


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request chooses its tokens; every value is settled.

    The order is that of vLLM: bias, repetition penalty, frequency and presence penalty, temperature, top-k, top-p.

    Attributes:
        temperature: Divides the logits, after bias and penalties; 0 takes the most probable token each time.
        top_k: Choose among the k most probable tokens; 0 means all.
        top_p: Choose among the most probable tokens whose probabilities sum to this fraction.
        repetition_penalty: Divides positive and multiplies negative logits of all tokens of prompt and completion so
            far (Keskar et al. 2019), after the bias.
        presence_penalty: Subtracted from the logits of all tokens of the completion so far, after the repetition
            penalty. Tokens of the prompt do not count (as in OpenAI's API and in vLLM).
        frequency_penalty: Subtracted from the logit of a token for each time it occurs in the completion so far.
        logit_bias: Pairs of a token id and a number that is added to its logit before everything else.
    """

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """One requested completion. A request for `n` of them becomes `n` of these with equal `prompt_ids`.

    Attributes:
        index: The place of the request in the input.
        sample: Number of the completion within its request, from 0.
        prompt_ids: The prompt, never empty.
        limit: Maximum number of tokens of the completion; prompt and limit fit into the model's window.
        seed: Of the random numbers, 63 bits. The same seed and prompt give the same text, alone or in any batch.
        sampling: How tokens are chosen.
        stop: Texts that end the completion and are not part of it.
        logprobs: How many alternatives to report for each token; None reports nothing.
        may_continue: Whether a later prompt is likely to start with this prompt and its completion, like the next turn
            of a chat. Engines keep the keys and values of such a completion as long as there is room.
        lane: Number of the open batch to join, see `Lanes`; 0 unless the engine has several.
    """

    index: int
    sample: int
    prompt_ids: tuple[int, ...]
    limit: int
    seed: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    may_continue: bool = False
    lane: int = 0

    @property
    def tokens(self) -> int:
        """Maximum number of tokens of prompt and completion together."""
        return len(self.prompt_ids) + self.limit


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """Everything that an engine needs to start.

    Attributes:
        checkpoint: Directory of the model.
        config: Its configuration.
        settings: The run's options, all of them set; limits and sampling come with each request.
        end_token_ids: Tokens that end a completion.
        adapter: Directory of a LoRA adapter for the checkpoint.
    """

    checkpoint: Path
    config: BaichuanConfig
    settings: GenerationOptions
    end_token_ids: frozenset[int]
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room for completions.

    Attributes:
        slots: Number of completions that run at the same time.
        slot_tokens: Maximum number of tokens of a prompt and its completion together.
    """

    slots: int
    slot_tokens: int


class Engine(Protocol):
    """A loaded model with an open batch: completions join and leave while others run.

    One thread at a time may call an engine (`OpenBatch` makes one usable from many), except for `wake`.

    Example:
        first = engine.add_request(a)
        engine.step()                  computes tokens of a
        engine.add_request(b)
        engine.step()                  computes tokens of a and b
        engine.abort(first)
        engine.step()                  computes tokens of b only
    """

    @property
    def is_idle(self) -> bool:
        """Whether no completion is waiting or running."""
        ...

    def prepare(self, capacity: Capacity) -> None:
        """Make room for the requests to come, so that the first `step` does not have to.

        Engines that reserve their memory when they start (llama.cpp, vLLM) start here, if nothing is running. If
        completions are running in too little room, requests added from now on wait until those have finished.

        Raises:
            CheckpointError: The model cannot be loaded.
            InsufficientMemoryError: There is not enough memory.
        """
        ...

    def add_request(self, request: EncodedRequest, *, stream: bool = False) -> int:
        """Add a completion to the batch; it starts in a later step, as soon as it fits.

        Args:
            request: The request. Requests added between the same two steps start in whatever order is fastest;
                those that were added before earlier ones finish waiting first.
            stream: Whether outputs contain new text as it comes.

        Returns:
            An id that this engine never uses again.
        """
        ...

    def abort(self, request_id: int) -> None:
        """Remove a waiting or running completion; its slot is free in the next step. Unknown ids are ignored."""
        ...

    def step(self) -> Step:
        """Let waiting completions join, compute at least one token of each running one, and return the news.

        An engine that computes in another process waits for news, at most until `wake` is called.

        Raises:
            BaichuanError: No completion can go on. The caller aborts all of them.
        """
        ...

    def wake(self) -> None:
        """Make a `step` that waits in another thread return early; any thread may call this."""
        ...

    def close(self) -> None:
        """Stop all completions and free the memory that `prepare` and `step` took."""
        ...


class EngineModule(Protocol):
    """A module of this folder."""

    def obstacle(self, setup: EngineSetup) -> str | None:
        """Return the reason why the engine cannot run this here, in a few words without its name; None if it can."""
        ...

    def find_unsupported_parameter(self, request: EncodedRequest) -> str | None:
        """Return which parameter of a request the engine cannot do, why, and what to do; None if it can do all."""
        ...

    def start(self, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
        """Load the model."""
        ...
