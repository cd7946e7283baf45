"""llama.cpp's own server inside this process: what it is started with, asked and answers."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from baichuan_core.errors import CheckpointError, UnsupportedError
from baichuan_core.generation.engines.contract import EncodedRequest

# In transformers' order, which the other engines follow.
SAMPLERS = ("penalties", "temperature", "top_k", "top_p")
GREEDY = ("penalties", "top_k")  # what is left of one candidate costs nothing; temperature 0 would keep them all
RANDOM_SEED = 0xFFFFFFFF  # llama.h, LLAMA_DEFAULT_SEED: not a seed but the wish for any
QUIET = -1


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room of a server.

    Attributes:
        slots: Completions that run side by side.
        slot_tokens: Tokens of a prompt and its completion together.
    """

    slots: int
    slot_tokens: int

    def holds(self, other: "Capacity") -> bool:
        """Whether a server of this capacity serves for the other as well."""
        return self.slots >= other.slots and self.slot_tokens >= other.slot_tokens


class LlamaServer:
    """A GGUF model that answers completions asked from several threads at once."""

    def __init__(self, model: Path, capacity: Capacity, threads: int) -> None:
        """Maps the model.

        Raises:
            CheckpointError: llama.cpp cannot read the file.
        """
        xllamacpp = import_module("xllamacpp")
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(model)
        parameters.n_parallel = capacity.slots
        parameters.n_ctx = capacity.slots * capacity.slot_tokens
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.n_gpu_layers = 0
        parameters.cache_ram_mib = 0  # it would keep the states of up to 8 GiB of old prompts
        parameters.warmup = False
        parameters.verbosity = QUIET
        # It listens on a local port whether one wants it or not: nobody knows the key.
        parameters.api_keys = [secrets.token_hex(32)]
        parameters.ui = False
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise CheckpointError(
                f"llama.cpp cannot load {model}: it is damaged, of an architecture that it does not know, or larger "
                "than the memory; convert the checkpoint again"
            ) from error
        self.capacity = capacity

    def complete(self, question: Mapping[str, Any]) -> "Answer":
        """The whole completion.

        Raises:
            UnsupportedError: llama.cpp refuses the question.
        """
        response = self._server.handle_completions(dict(question))
        _refuse_errors(response)
        choice, details = response["choices"][0], response["__verbose"]
        entries = (choice["logprobs"] or {}).get("content", [])
        return Answer(tuple(details["tokens"]), details["stop_type"], tuple(entries))

    def stream(self, question: Mapping[str, Any], on_piece: Callable[["Piece"], bool]) -> None:
        """Pieces of a completion as they come, until ``on_piece`` says True or it ends.

        Raises:
            UnsupportedError: llama.cpp refuses the question.
        """
        errors: list[Any] = []

        def on_chunk(chunk: Any) -> bool:
            if "error" in chunk:
                errors.append(chunk)
                return True
            details = chunk["__verbose"]
            tokens = details["tokens"]
            return bool(tokens) and on_piece(Piece(tokens[-1], details["content"], details["tokens_predicted"]))

        self._server.handle_completions({**question, "stream": True}, on_chunk)
        for error in errors:
            _refuse_errors(error)


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


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a completion.

    Attributes:
        token: Its last token. Earlier ones that left a character unfinished are not named.
        text: The text of them all.
        count: Tokens of the completion so far.
    """

    token: int
    text: str
    count: int


def question(request: EncodedRequest, *, stop: Sequence[str] = ()) -> dict[str, Any]:
    """A request in the words of llama.cpp's server."""
    sampling = request.sampling
    greedy = sampling.temperature == 0
    asked: dict[str, Any] = {
        "prompt": list(request.prompt_ids),
        "max_tokens": request.limit,
        "temperature": sampling.temperature,
        "top_k": 1 if greedy else sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(request.prompt_ids) + request.limit,  # all of both
        "samplers": list(GREEDY if greedy else SAMPLERS),
        "seed": request.seed % RANDOM_SEED,
        "stop": list(stop),
        "return_tokens": True,
        "verbose": True,  # has the tokens in it
    }
    if request.logprobs is not None:
        asked["logprobs"] = max(request.logprobs, 1)
    return asked


def _refuse_errors(response: Mapping[str, Any]) -> None:
    if error := response.get("error"):
        raise UnsupportedError(f"llama.cpp refuses the request: {error.get('message', error)}")
