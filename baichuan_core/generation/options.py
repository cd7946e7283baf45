"""The settings and the result of a generation run."""

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
# Penalties, `logprobs` and `n` have the same limits as in OpenAI's API. A higher temperature is almost certainly a
# mistake, and engines store `top_k` in 32 bits.
MAX_OPTION_VALUES: dict[str, float] = {"temperature": 100, "top_k": 2**31 - 1, "top_p": 1, "logprobs": 20, "n": 128}
MAX_OPTION_VALUES |= {"presence_penalty": 2, "frequency_penalty": 2}
MAX_LOGIT_BIAS = 100  # maximum absolute value, as in OpenAI's API
MAX_BIASED_TOKENS = 1024  # OpenAI's API allows 300
# Settings in generation_config.json that do not affect our completions: ids that other code reads, transformers' output
# format and optimizations, and settings that matter only together with others (beams, assistants).
IRRELEVANT_SETTINGS = {
    *("bos_token_id", "pad_token_id", "user_token_id", "assistant_token_id", "transformers_version"),
    *("_from_model_config", "use_cache", "early_stopping", "return_dict_in_generate", "output_scores"),
    *("output_attentions", "output_hidden_states", "output_logits", "cache_implementation", "cache_config"),
    *("compile_config", "disable_compile", "low_memory", "renormalize_logits", "remove_invalid_values"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "prefill_chunk_size", "length_penalty", "chat_format"),
}
SETTINGS_NEUTRAL_AT_ONE = {
    *("num_beams", "num_beam_groups", "typical_p", "num_return_sequences", "guidance_scale"),
    "encoder_repetition_penalty",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """Options for a generation run. Options that are None are taken from the checkpoint's `generation_config.json`.

    Attributes:
        max_new_tokens: Maximum length of a completion in tokens; the model's context length limits it further.
        do_sample: Whether to sample; if False, the most probable token is chosen each time.
        temperature: Divides the logits before sampling; 0 disables sampling.
        top_k: Number of most probable tokens to sample from; 0 means all.
        top_p: Total probability of the most probable tokens to sample from; 1 means all tokens.
        repetition_penalty: Values above 1 lower the probability of tokens that have already occurred (Keskar et al.
            2019).
        presence_penalty: Subtracted from the logits of tokens that the completion already contains (-2 to 2), as in
            OpenAI's API. Prompt tokens do not count.
        frequency_penalty: Subtracted from a token's logit once for each time the completion contains it (-2 to 2).
        logit_bias: Maps token ids to numbers that are added to their logits (-100 to 100), before all penalties.
        seed: Seed for sampling. The random numbers for a prompt depend on the seed, the prompt, and how many identical
            prompts precede it, but not on the batch.
        stop: Strings that end a completion and are not part of it. A single string counts as one.
        n: Number of completions per request, each with its own random numbers.
        logprobs: Number of alternatives (0 to 20) whose log-probabilities are reported along with that of each token,
            before any sampling settings are applied. None reports no log-probabilities.
        engine: The engine that runs the model; `auto` chooses the fastest one that can run it.
        batch_tokens: Maximum number of tokens in the batch, counting prompts and completions. In addition, shared
            prefixes of prompts are kept, with up to a quarter of this number of tokens.
        batch_size: Maximum number of completions that run at the same time.
        dtype: Data type of the weights; `auto` uses the checkpoint's.
        device: `cpu` or `cuda`; None uses CUDA if it is available.
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
        minimums = {
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
        for name, minimum in minimums.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:  # written this way to reject NaN too
                raise ValueError(f"{name} is {value}; it must be at least {minimum}")
        for name, maximum in MAX_OPTION_VALUES.items():
            value = getattr(self, name)
            if value is not None and value > maximum:
                raise ValueError(f"{name} is {value}; it must be at most {maximum}")
        if self.repetition_penalty is not None and not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0")
        if self.engine not in ("auto", *get_args(EngineName)):
            raise ValueError(f"engine is {self.engine!r}; use 'auto' or one of {', '.join(get_args(EngineName))}")
        object.__setattr__(self, "stop", normalize_stop_strings(self.stop))
        check_logit_bias(self.logit_bias)


def normalize_stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Return the stop strings as a tuple; a single string counts as one, as in OpenAI's API.

    Raises:
        ValueError: One of them is not a string, is empty or cannot be written as UTF-8.
    """
    texts = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("stop contains a value that is not a string; pass a string or a list of strings")
    if "" in texts:
        raise ValueError("stop contains an empty string; remove it")
    if any(has_lone_surrogate(text) for text in texts):
        raise ValueError("stop contains an unpaired surrogate; use the complete character")
    return texts


def check_logit_bias(bias: Mapping[Any, Any]) -> None:
    """Reject biases that do not map token ids to numbers from -100 to 100.

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


def has_lone_surrogate(text: str) -> bool:
    """Return whether a text contains an unpaired surrogate, which JSON can express but UTF-8 cannot."""
    return any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """The generation settings that a checkpoint recommends in its `generation_config.json`."""

    max_new_tokens: int = 2048
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    eos_token_id: int | list[int] | None = None

    @classmethod
    def from_checkpoint(cls, checkpoint: Path) -> "GenerationDefaults":
        """Read the settings of a checkpoint, and log a warning about settings that are ignored.

        Base models often have no `generation_config.json`.

        Raises:
            CheckpointError: `generation_config.json` is damaged or has values out of range.
        """
        known = {one.name for one in fields(cls)}
        settings = read_generation_settings(checkpoint)
        defaults = cls(**{name: value for name, value in settings.items() if name in known})
        end = defaults.eos_token_id
        try:
            defaults.fill_options(GenerationOptions())
            frozenset(map(index, end if isinstance(end, list) else [end or 0]))
        except (ValueError, TypeError) as error:
            path = checkpoint / "generation_config.json"
            raise CheckpointError(f"{path} has an invalid setting ({error}); fix it or remove the file") from error
        if ignored := find_ignored_settings(settings):
            log.warning(
                "the checkpoint's generation_config.json has settings that are ignored: %s",
                ", ".join(f"{name}={value!r}" for name, value in sorted(ignored.items())),
            )
        return defaults

    def fill_options(self, options: GenerationOptions) -> GenerationOptions:
        """Return `options` with these defaults filled in, and with temperature 0 replaced by greedy decoding."""
        names = ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
        chosen = {name: getattr(options, name) for name in names}
        if options.do_sample is None and options.temperature:
            chosen["do_sample"] = True  # a temperature would have no effect without sampling
        filled = {name: getattr(self, name) if value is None else value for name, value in chosen.items()}
        if filled["temperature"] == 0:
            filled |= {"do_sample": False, "temperature": 1.0}
        return replace(options, **filled)


def find_ignored_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint that would change completions in transformers but are ignored here."""
    used = {one.name for one in fields(GenerationDefaults)}
    return {
        name: value
        for name, value in settings.items()
        if name not in used | IRRELEVANT_SETTINGS and value and not (name in SETTINGS_NEUTRAL_AT_ONE and value == 1)
    }


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """The result of a generation run.

    Attributes:
        requests: Number of requests answered.
        completions: Number of completions written, `n` per request.
        resumed: Number of completions that an earlier run had finished.
        prompt_tokens: Number of prompt tokens, counted once per request.
        completion_tokens: Number of tokens in all completions, including end tokens.
        generated_tokens: Number of tokens that this run generated.
        seconds: Duration of the generation itself, excluding loading.
        engine: The engine that ran the model.
        engine_reason: The reason for choosing this engine.
        chat_format: The chat format: a published one (`baichuan2`, `baichuan1-13b`) or the checkpoint's
            `chat_template`; None if no request was a chat.
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
        """Number of tokens generated per second."""
        return self.generated_tokens / max(self.seconds, 1e-9)
