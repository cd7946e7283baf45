"""The requests of a generation run: plain prompts or chats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from baichuan_core.errors import PromptError
from baichuan_core.generation.options import GenerationOptions, half_of_a_pair, read_stop_texts
from baichuan_core.tokenizer import Message

WHOLE_NUMBERS = ("max_new_tokens", "top_k", "seed", "n", "logprobs")
NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
OPTIONS = (*WHOLE_NUMBERS, *NUMBERS, "stop", "logit_bias")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request: a text to continue, or a chat to answer.

    Attributes:
        prompt: Text, tokenized as it is; control pieces in it are control pieces.
        messages: A chat in place of `prompt`; text in it never yields a control id.
        id: The caller's own name of the request; it is returned with the completion.
        max_new_tokens, temperature, top_k, top_p, presence_penalty, frequency_penalty, logit_bias, stop, n, logprobs:
            Override the run's options for this request, see `GenerationOptions`.
        seed: Overrides the run's seed; then equal prompts with equal seeds get equal completions.
        place: Where the request comes from, for messages: "line 12 of prompts.jsonl".
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
    place: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise PromptError("a request needs either 'prompt' or 'messages', not both")
        for names, kinds, word in ((WHOLE_NUMBERS, int, "a whole number"), (NUMBERS, (int, float), "a number")):
            for name in names:
                value = getattr(self, name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                    raise PromptError(f"{name} is {value!r}; write {word}")
        if half_of_a_pair(self.id or ""):
            raise PromptError("id holds half of a surrogate pair; write the whole character")
        try:
            if self.stop is not None:
                object.__setattr__(self, "stop", read_stop_texts(self.stop))
            self.applied_to(GenerationOptions())
        except ValueError as error:
            raise PromptError(str(error)) from error

    def applied_to(self, options: GenerationOptions) -> GenerationOptions:
        """Return `options` with the values that this request overrides."""
        return replace(options, **{name: getattr(self, name) for name in OPTIONS if getattr(self, name) is not None})
