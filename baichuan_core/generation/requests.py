"""What a generation run is asked: plain prompts or chats, one JSON object a line in a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baichuan_core.errors import DatasetError, PromptError
from baichuan_core.generation.options import GenerationOptions, half_of_a_pair
from baichuan_core.text_file import read_text_file
from baichuan_core.tokenizer import Message

WHOLE_NUMBERS = ("max_new_tokens", "top_k", "seed")
NUMBERS = ("temperature", "top_p")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request: a text to go on with, or a chat to answer.

    Attributes:
        prompt: Text, tokenized as it is; control pieces in it are control pieces.
        messages: A chat in place of ``prompt``; text in it never yields a control id.
        id: The caller's own name of the request; it comes back with the completion.
        max_new_tokens, temperature, top_k, top_p, stop: In place of the run's options, for this request alone.
        seed: In place of the run's; then equal prompts with equal seeds get equal answers.
    """

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    id: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise PromptError("a request needs either 'prompt' or 'messages', not both")
        for names, kinds, word in ((WHOLE_NUMBERS, int, "a whole number"), (NUMBERS, (int, float), "a number")):
            for name in names:
                value = getattr(self, name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                    raise PromptError(f"{name} is {value!r}; write {word}")
        if self.stop is not None and not all(isinstance(text, str) for text in self.stop):
            raise PromptError("stop holds what is no text; write a list of strings")
        if half_of_a_pair(self.id or ""):
            raise PromptError("id holds half of a surrogate pair; write the whole character")
        try:
            self.applied_to(GenerationOptions())
        except ValueError as error:
            raise PromptError(str(error)) from error

    def applied_to(self, options: GenerationOptions) -> GenerationOptions:
        """``options`` with what this request wants otherwise."""
        names = (*WHOLE_NUMBERS, *NUMBERS, "stop")
        return replace(options, **{name: getattr(self, name) for name in names if getattr(self, name) is not None})


def read_requests(path: Path | str) -> list[GenerationRequest]:
    """Reads requests, one JSON object ``{"prompt": ...}`` or ``{"messages": [...]}`` a line.

    A line may also hold ``id`` and the other fields of `GenerationRequest`.

    Raises:
        DatasetError: The file is missing, not UTF-8 or empty, or a line is malformed; the message names the line.
    """
    path = Path(path)
    text = read_text_file(path)
    lines = [(line, content) for line, content in enumerate(text.split("\n"), start=1) if content.strip()]
    if not lines:
        raise DatasetError(f"the prompts {path.name} hold no request; add one JSON object a line")
    return [_request(content, f"line {line} of the prompts") for line, content in lines]


def _request(content: str, place: str) -> GenerationRequest:
    try:
        item = json.loads(content)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{place} is not JSON: {error.msg}; write one JSON object a line") from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 100 000 brackets
        raise DatasetError(f"{place} is not JSON: {error}; write one JSON object a line") from error
    if not isinstance(item, dict):
        raise DatasetError(f'{place} is not an object; write {{"prompt": ...}} or {{"messages": [...]}}')
    prompt, messages, request_id = item.get("prompt"), item.get("messages"), item.get("id")
    if prompt is not None and not isinstance(prompt, str):
        raise DatasetError(f"{place} has a 'prompt' that is no text; write it as a string")
    if messages is not None and not _is_chat(messages):
        raise DatasetError(f"{place} has malformed 'messages'; each needs 'role' and 'content' as strings")
    overrides = {name: item.get(name) for name in (*WHOLE_NUMBERS, *NUMBERS)}
    stop = item.get("stop")
    if stop is not None and not isinstance(stop, str | list):
        raise DatasetError(f"{place} has a 'stop' that is no list; write a list of strings")
    overrides["stop"] = (stop,) if isinstance(stop, str) else stop and tuple(stop)
    try:
        return GenerationRequest(prompt, messages, None if request_id is None else str(request_id), **overrides)
    except PromptError as error:
        raise DatasetError(f"{place}: {error}") from error


def _is_chat(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in messages
    )
