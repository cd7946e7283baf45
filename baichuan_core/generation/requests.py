"""The requests of a generation run: plain prompts or chats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from baichuan_core.errors import PromptError
from baichuan_core.generation.options import GenerationOptions, has_lone_surrogate, normalize_stop_strings
from baichuan_core.tokenizer import Message

INTEGER_OPTIONS = ("max_new_tokens", "top_k", "seed", "n", "logprobs")
NUMBER_OPTIONS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
OPTION_NAMES = (*INTEGER_OPTIONS, *NUMBER_OPTIONS, "stop", "logit_bias")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request: a text to continue, or a chat to answer.

    Attributes:
        prompt: Text to continue. Names of control tokens in this text, such as `</s>`, are encoded as control tokens.
        messages: A chat instead of `prompt`; the text of its messages is never encoded as control tokens.
        keep_messages: Whether a chat that fits in the model's context is used as a whole, so that its answer may get
            fewer than `max_new_tokens`. In all other chats, old turns are dropped to leave room for `max_new_tokens`,
            as in the published code.
        id: The caller's id for the request; it is returned with each completion.
        max_new_tokens, temperature, top_k, top_p, presence_penalty, frequency_penalty, logit_bias, stop, n, logprobs:
            Override the run's options for this request, see `GenerationOptions`.
        seed: Overrides the run's seed; equal prompts with equal seeds then get equal completions.
        place: Where the request comes from, for use in error messages, such as "line 12 of prompts.jsonl".
    """

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    id: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    keep_messages: bool = False
    place: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise PromptError("a request must have either 'prompt' or 'messages', but not both; pass exactly one")
        for names, kinds, word in (
            (INTEGER_OPTIONS, int, "an integer"),
            (NUMBER_OPTIONS, (int, float), "a number"),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                    raise PromptError(f"{name} is {value!r}; it must be {word}")
        if has_lone_surrogate(self.id or ""):
            raise PromptError("id contains an unpaired surrogate; use the complete character")
        try:
            if self.stop is not None:
                object.__setattr__(self, "stop", normalize_stop_strings(self.stop))
            self.override_options(GenerationOptions())
        except ValueError as error:
            raise PromptError(str(error)) from error

    def override_options(self, options: GenerationOptions) -> GenerationOptions:
        """Return `options` with this request's overrides applied."""
        return replace(
            options, **{name: getattr(self, name) for name in OPTION_NAMES if getattr(self, name) is not None}
        )
