"""The input and the interface that all engines share. Prompts are token ids from our tokenizer in every engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from baichuan_core.config import BaichuanConfig
from baichuan_core.generation.engines.outputs import StepOutputs
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.tokenizer import BaichuanTokenizer


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """The sampling settings of one request, with no value left to a default.

    They are applied in vLLM's order: bias, repetition penalty, frequency and presence penalties, temperature, top-k,
    top-p.

    Attributes:
        temperature: Divisor of the logits, after bias and penalties; 0 always chooses the most probable token.
        top_k: Number of most probable tokens to choose from; 0 means all.
        top_p: Total probability of the most probable tokens to choose from; 1 means all tokens.
        repetition_penalty: Divides the positive logits, and multiplies the negative logits, of all tokens in the prompt
            and in the completion so far (Keskar et al. 2019), after the bias has been added.
        presence_penalty: Subtracted from the logits of all tokens in the completion so far, after the repetition
            penalty. Prompt tokens do not count (as in OpenAI's API and in vLLM).
        frequency_penalty: Subtracted from a token's logit once for each time the token occurs in the completion so far.
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
    """One requested completion. A request for `n` completions becomes `n` objects with the same `prompt_ids`.

    Attributes:
        index: Index of the request in the input.
        sample: Index of the completion within its request.
        prompt_ids: Token ids of the prompt; never empty.
        limit: Maximum number of tokens in the completion; together with the prompt, they fit in the model's context.
        seed: 63-bit seed of the random numbers. The same seed and prompt produce the same text, alone or in any batch.
        sampling: The sampling settings.
        stop: Texts that end the completion and are not part of it.
        logprobs: Number of alternatives to report with the log-probability of each token; None reports neither.
        may_continue: Whether a later prompt is likely to start with this prompt and its completion, such as the next
            turn of a chat. Engines keep the keys and values of such a completion as long as there is room.
        lane: Index of the open batch to join, see `MultiLaneEngine`; 0 unless the engine has several.
    """

    index: int
    sample: int
    prompt_ids: tuple[int, ...]
    limit: int
    seed: int
    sampling: SamplingSettings
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    may_continue: bool = False
    lane: int = 0

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens in the prompt and the completion together."""
        return len(self.prompt_ids) + self.limit


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """Everything that an engine needs to start.

    Attributes:
        checkpoint: Directory of the model.
        config: The model's configuration.
        settings: The run's options with defaults filled in; the limits and sampling settings of each request override
            them.
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
    """Room for completions: a number of slots of equal length.

    Attributes:
        slots: Number of completions that run at the same time.
        slot_tokens: Maximum number of tokens per slot, of a prompt and its completion together.
    """

    slots: int
    slot_tokens: int


class Engine(Protocol):
    """A loaded model with an open batch: completions join and leave while others run.

    Only one thread at a time may call an engine, except for `wake`; `OpenBatch` serves many threads.

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
        """Make room for upcoming requests, so that the first `step` does not have to.

        Engines that reserve their memory when they start (llama.cpp, vLLM) are started here, unless completions are
        running. If the running engine has too little room, requests that are added now wait until it is idle.

        Raises:
            CheckpointError: The model cannot be loaded.
            InsufficientMemoryError: There is not enough memory.
        """
        ...

    def add_request(self, request: EncodedRequest, *, stream: bool = False) -> int:
        """Add a completion to the batch; it starts in the first step in which it fits.

        Args:
            request: The request. Requests that are added between the same two steps start in whatever order is
                fastest, but after all requests that were added earlier.
            stream: Whether to report text as it is generated.

        Returns:
            An id that is unique within this engine.
        """
        ...

    def abort(self, request_id: int) -> None:
        """Remove a waiting or running completion; its slot is free in the next step. Unknown ids are ignored."""
        ...

    def step(self) -> StepOutputs:
        """Let waiting completions join, compute at least one token for each running one, and return the outputs.

        An engine that computes in another process waits for outputs, at most until `wake` is called.

        Raises:
            BaichuanError: No completion can continue. The caller aborts all of them.
        """
        ...

    def wake(self) -> None:
        """Make a `step` that is waiting in another thread return early. Any thread may call this."""
        ...

    def close(self) -> None:
        """Stop all completions and free the memory allocated by `prepare` and `step`."""
        ...


class EngineModule(Protocol):
    """The interface that each engine's subpackage implements."""

    def find_unsupported_reason(self, setup: EngineSetup) -> str | None:
        """Return why the engine cannot run the checkpoint here, without naming the engine; None if it can."""
        ...

    def find_unsupported_parameter(self, request: EncodedRequest) -> str | None:
        """Return a message with a remedy if the engine does not support a parameter of the request, otherwise None."""
        ...

    def create_engine(self, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
        """Create the engine. The native engine loads the model here; the others load it when they are prepared."""
        ...
