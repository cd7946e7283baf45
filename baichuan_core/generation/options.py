"""Settings and result of a generation run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import index
from pathlib import Path
from typing import Any, Literal, get_args

from baichuan_core.checkpoint import DtypeName
from baichuan_core.errors import CheckpointError
from baichuan_core.tokenizer import ChatStyle, read_generation_settings

EngineName = Literal["transformers", "vllm", "llama_cpp"]
# Alternatives as in OpenAI's chat API; what is larger than the others is a slip, and no engine can count so far.
MOST: dict[str, float] = {"temperature": 100, "top_k": 2**31 - 1, "top_p": 1, "logprobs": 20, "n": 128}
MOST |= {"presence_penalty": 2, "frequency_penalty": 2}
MAX_LOGIT_BIAS = 100  # in either direction, as in OpenAI's API
MAX_BIASED_TOKENS = 1024  # OpenAI's API takes 300
# Settings in generation_config.json that do not change an answer here: ids that are used elsewhere, the form of
# transformers' output, how it computes, and what only matters together with others (beams, assistants).
BOOKKEEPING = {
    *("bos_token_id", "pad_token_id", "user_token_id", "assistant_token_id", "transformers_version"),
    *("_from_model_config", "use_cache", "early_stopping", "return_dict_in_generate", "output_scores"),
    *("output_attentions", "output_hidden_states", "output_logits", "cache_implementation", "cache_config"),
    *("compile_config", "disable_compile", "low_memory", "renormalize_logits", "remove_invalid_values"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "prefill_chunk_size", "length_penalty", "chat_format"),
}
NEUTRAL_AT_ONE = {
    *("num_beams", "num_beam_groups", "typical_p", "num_return_sequences", "guidance_scale"),
    "encoder_repetition_penalty",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to generate. What is None comes from the checkpoint's ``generation_config.json``.

    Attributes:
        max_new_tokens: Longest completion in tokens; the model's window limits it further.
        do_sample: Sample; False takes the most probable token each time.
        temperature: Divides the logits before sampling; 0 means no sampling.
        top_k: Sample among the k most probable tokens; 0 means all.
        top_p: Sample among the most probable tokens that hold this share of the probability.
        repetition_penalty: Above 1 makes tokens that have occurred less probable (Keskar et al. 2019).
        presence_penalty: Subtracted from the logits of tokens that the completion already contains (-2 to 2), as in
            OpenAI's API. Tokens of the prompt do not count.
        frequency_penalty: Subtracted from the logit of a token for each time the completion contains it (-2 to 2).
        logit_bias: Added to the logits of these token ids (-100 to 100), before all penalties.
        seed: Of the sampling. A prompt's noise follows from the seed, the prompt and how often the same prompt
            came before, not from the batch it stands in.
        stop: Texts that end a completion; they are not part of it. A single string is one text.
        n: Completions a request, each with noise of its own.
        logprobs: Report the model's own logarithm of the probability of each token, and of this many alternatives
            (0 to 20).
        engine: What runs the model; ``auto`` takes the fastest that can.
        batch_tokens: Most tokens, prompts and completions together, that run at once. Beginnings that prompts have in
            common are kept beside them, up to a quarter of it.
        batch_size: Most completions that run at once.
        dtype: Of the weights; ``auto`` takes the checkpoint's own.
        device: ``cpu``, ``cuda``; None takes CUDA if there is any.
    """

    max_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    stop: Sequence[str] = ()
    n: int = 1
    logprobs: int | None = None
    engine: EngineName | Literal["auto"] = "auto"
    batch_tokens: int = 16384
    batch_size: int = 32
    dtype: DtypeName = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        limits = {
            "max_new_tokens": 1,
            "temperature": 0,
            "top_k": 0,
            "top_p": 0,
            "presence_penalty": -2,
            "frequency_penalty": -2,
            "n": 1,
            "logprobs": 0,
            "batch_tokens": 1,
            "batch_size": 1,
        }
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and not value >= least:  # NaN neither
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is not None and value > most:
                raise ValueError(f"{name} is {value}; it must be at most {most}")
        if self.repetition_penalty is not None and not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0")
        if self.engine not in ("auto", *get_args(EngineName)):
            raise ValueError(f"engine is {self.engine!r}; use 'auto' or one of {', '.join(get_args(EngineName))}")
        object.__setattr__(self, "stop", read_stop_texts(self.stop))
        check_logit_bias(self.logit_bias)


def read_stop_texts(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Return stop texts as a tuple; a single string is one text, as in OpenAI's API.

    Raises:
        ValueError: One of them is not a string, is empty or cannot be written as UTF-8.
    """
    texts = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("stop contains something that is not a string; pass a string or a list of strings")
    if "" in texts:
        raise ValueError("stop contains an empty string; leave it out")
    if any(half_of_a_pair(text) for text in texts):
        raise ValueError("stop contains half of a surrogate pair; write the whole character")
    return texts


def check_logit_bias(bias: Mapping[Any, Any]) -> None:
    """Reject biases that are not numbers from -100 to 100 by token id.

    Raises:
        ValueError: The message names `logit_bias` and the token.
    """
    if len(bias) > MAX_BIASED_TOKENS:
        raise ValueError(f"logit_bias has {len(bias)} tokens; it must have at most {MAX_BIASED_TOKENS}")
    for token, value in bias.items():
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise ValueError(f"logit_bias has the key {token!r}; keys must be token ids")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_LOGIT_BIAS:
            raise ValueError(
                f"logit_bias of token {token} is {value!r};"
                f" it must be a number from {-MAX_LOGIT_BIAS} to {MAX_LOGIT_BIAS}"
            )


def half_of_a_pair(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which JSON can name and no file can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a checkpoint says about generating with it (published ``generation_config.json``)."""

    max_new_tokens: int = 2048
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    eos_token_id: int | list[int] | None = None

    @classmethod
    def of(cls, checkpoint: Path) -> "GenerationDefaults":
        """Read them from ``checkpoint``; base models often have none. Log a warning about settings that are not used.

        Raises:
            CheckpointError: ``generation_config.json`` is damaged or holds values out of range.
        """
        known = {one.name for one in fields(cls)}
        settings = read_generation_settings(checkpoint)
        defaults = cls(**{name: value for name, value in settings.items() if name in known})
        end = defaults.eos_token_id
        try:
            defaults.complete(GenerationOptions())
            frozenset(map(index, end if isinstance(end, list) else [end or 0]))
        except (ValueError, TypeError) as error:
            path = checkpoint / "generation_config.json"
            raise CheckpointError(
                f"{path} holds what cannot be used ({error}); correct it or remove the file"
            ) from error
        if ignored := find_ignored_settings(settings):
            log.warning(
                "generation_config.json of the checkpoint has settings that are not used here: %s",
                ", ".join(f"{name}={value!r}" for name, value in sorted(ignored.items())),
            )
        return defaults

    def complete(self, options: GenerationOptions) -> GenerationOptions:
        """``options`` with nothing left open, and temperature 0 turned into greedy decoding."""
        names = ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
        chosen = {name: getattr(options, name) for name in names}
        if options.do_sample is None and options.temperature:
            chosen["do_sample"] = True  # who names a temperature wants sampling
        filled = {name: getattr(self, name) if value is None else value for name, value in chosen.items()}
        if filled["temperature"] == 0:
            filled |= {"do_sample": False, "temperature": 1.0}
        return replace(options, **filled)


def find_ignored_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation settings of a checkpoint that would change answers elsewhere and are not used here."""
    used = {one.name for one in fields(GenerationDefaults)}
    return {
        name: value
        for name, value in settings.items()
        if name not in used | BOOKKEEPING and value and not (name in NEUTRAL_AT_ONE and value == 1)
    }


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """What a run did.

    Attributes:
        requests: How many requests were answered.
        completions: How many completions were written, ``n`` for each request.
        resumed: How many of them an earlier run had finished.
        prompt_tokens: Tokens of the prompts, each counted once.
        completion_tokens: Tokens of all completions, the end token included.
        generated_tokens: Those of them that this run generated.
        seconds: Time of the generation itself, without loading.
        engine: What ran the model.
        engine_reason: Why this engine.
        chat_format: How chats were written: in a published format (``baichuan2``, ``baichuan1-13b``) or by the
            checkpoint's own ``chat_template``; None if no request was a chat.
    """

    requests: int
    completions: int
    resumed: int
    prompt_tokens: int
    completion_tokens: int
    generated_tokens: int
    seconds: float
    engine: EngineName
    engine_reason: str
    chat_format: ChatStyle | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens generated a second."""
        return self.generated_tokens / max(self.seconds, 1e-9)
