"""Requests to llama.cpp's server, and its responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baichuan_core.generation.engines.contract import EncodedRequest

SAMPLERS = ("penalties", "temperature", "top_k", "top_p")  # in the order in which all engines apply them
# Greedy decoding uses top_k=1, which leaves one candidate, so no other sampler is needed. Temperature 0 would keep
# every token as a candidate.
GREEDY_SAMPLERS = ("penalties", "top_k")
RANDOM_SEED_SENTINEL = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED in llama.h, which requests a random seed
RESPONSE_FIELDS = ("tokens", "stop_type", "completion_probabilities")


@dataclass(frozen=True, slots=True)
class CompletionResponse:
    """The server's response with a whole completion.

    Attributes:
        tokens: All generated tokens, including an end token.
        stop_type: `eos`, `word` or `limit`.
        entries: Log-probabilities in OpenAI's format, with ids; none for tokens that end inside a character.
    """

    tokens: tuple[int, ...]
    stop_type: str
    entries: tuple[Mapping[str, Any], ...]

    @classmethod
    def from_json(cls, response: Mapping[str, Any]) -> "CompletionResponse":
        """Parse the JSON object of a response."""
        return cls(
            tuple(response["tokens"]), response["stop_type"], tuple(response.get("completion_probabilities", ()))
        )


@dataclass(frozen=True, slots=True)
class CompletionChunk:
    """A chunk of a streamed completion.

    Attributes:
        token: The last token of the chunk. The server omits earlier tokens that end inside a character.
        text: The text of all tokens of the chunk, including omitted ones.
        count: Number of tokens in the completion so far.
        entry: The log-probability of the last token in OpenAI's format with ids, if it was requested.
    """

    token: int
    text: str
    count: int
    entry: Mapping[str, Any] | None = None


def make_request_body(request: EncodedRequest, *, stop: Sequence[str] = ()) -> dict[str, Any]:
    """Convert a request to the JSON body of llama.cpp's `/completion` endpoint."""
    sampling = request.sampling
    greedy = sampling.temperature == 0
    body: dict[str, Any] = {
        "prompt": list(request.prompt_ids),
        "n_predict": request.limit,
        "temperature": sampling.temperature,
        "top_k": 1 if greedy else sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(request.prompt_ids) + request.limit,  # covers the whole prompt and completion
        "logit_bias": [list(pair) for pair in sampling.logit_bias],
        "samplers": list(GREEDY_SAMPLERS if greedy else SAMPLERS),
        "seed": request.seed % RANDOM_SEED_SENTINEL,
        "stop": list(stop),
        "return_tokens": True,
        "response_fields": list(RESPONSE_FIELDS),
    }
    if request.logprobs is not None:
        body["n_probs"] = max(request.logprobs, 1)
    return body
