"""Requests to llama.cpp's server, and its responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baichuan_core.generation.engines.contract import EncodedRequest

# In transformers' order, which the other engines follow.
SAMPLERS = ("penalties", "temperature", "top_k", "top_p")
GREEDY = ("penalties", "top_k")  # what is left of one candidate costs nothing; temperature 0 would keep them all
RANDOM_SEED = 0xFFFFFFFF  # llama.h, LLAMA_DEFAULT_SEED: not a seed but the wish for any
FIELDS = ("tokens", "stop_type", "completion_probabilities")


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as llama.cpp tells it.

    Attributes:
        tokens: All generated tokens, an end token included.
        stop_type: ``eos``, ``word`` or ``limit``.
        entries: Log probabilities in OpenAI's form with ids; none for tokens that leave a character unfinished.
    """

    tokens: tuple[int, ...]
    stop_type: str
    entries: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Answer":
        """From the server's words."""
        return cls(tuple(told["tokens"]), told["stop_type"], tuple(told.get("completion_probabilities", ())))


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a completion.

    Attributes:
        token: Its last token. Earlier ones that left a character unfinished are not named.
        text: The text of them all.
        count: Tokens of the completion so far.
        entry: The log-probability of the last token in OpenAI's format with ids, if it was requested.
    """

    token: int
    text: str
    count: int
    entry: Mapping[str, Any] | None = None


def question(request: EncodedRequest, *, stop: Sequence[str] = ()) -> dict[str, Any]:
    """A request in the words of llama.cpp's server."""
    sampling = request.sampling
    greedy = sampling.temperature == 0
    asked: dict[str, Any] = {
        "prompt": list(request.prompt_ids),
        "n_predict": request.limit,
        "temperature": sampling.temperature,
        "top_k": 1 if greedy else sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(request.prompt_ids) + request.limit,  # all of both
        "logit_bias": [list(pair) for pair in sampling.logit_bias],
        "samplers": list(GREEDY if greedy else SAMPLERS),
        "seed": request.seed % RANDOM_SEED,
        "stop": list(stop),
        "return_tokens": True,
        "response_fields": list(FIELDS),
    }
    if request.logprobs is not None:
        asked["n_probs"] = max(request.logprobs, 1)
    return asked
