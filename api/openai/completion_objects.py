"""Answers and stream chunks for chat and text completions, in the format of OpenAI's API.

Chunks are assembled from strings, because an API process writes thousands of them per second.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from jobs.chats.messages import TokenLogprob

DONE_EVENT = b"data: [DONE]\n\n"
FinishReason = Literal["stop", "length"]


@dataclass(slots=True)
class Choice:
    """One completion, as received so far.

    Attributes:
        characters: Number of characters streamed so far, which is the offset of the next token in a text completion.
    """

    index: int
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    completion_tokens: int = 0
    characters: int = 0


class Usage(BaseModel):
    """Token usage of an answer; each prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def from_choices(cls, prompt_tokens: int, choices: Iterable[Choice]) -> "Usage":
        """Return the usage summed over all completions."""
        written = sum(choice.completion_tokens for choice in choices)
        return cls(prompt_tokens=prompt_tokens, completion_tokens=written, total_tokens=prompt_tokens + written)


class ChatMessage(BaseModel):
    """The message that contains the answer's text."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of `n` answers."""

    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class ChatCompletionObject(BaseModel):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(BaseModel):
    """One of `n` continuations of a prompt."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class TextCompletionObject(BaseModel):
    """The continuations of one or more prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class ChunkFormatter:
    """Formats the chunks of one stream.

    Args:
        answer_id: Id of the completion.
        created: Seconds since the epoch.
        model: The model as the client named it.
        is_chat: Whether the stream answers a chat rather than a text completion.
        counts: Whether a final chunk reports the token usage; all others then have `"usage": null`.
    """

    def __init__(self, answer_id: str, created: int, model: str, *, is_chat: bool, counts: bool) -> None:
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        self._head = (
            f'data: {{"id":{_dump_json(answer_id)},"object":"{kind}","created":{created},"model":{_dump_json(model)}'
        )
        self._tail = ',"usage":null}\n\n' if counts else "}\n\n"
        self._is_chat = is_chat

    def format_role_chunks(self, choices: Iterable[Choice]) -> str:
        """Format the chunks with the role of each answer; text completions have no roles."""
        if not self._is_chat:
            return ""
        role = '{"role":"assistant","content":""}'
        return "".join(self._format_chunk(choice.index, role, "null", "null") for choice in choices)

    def format_text_chunk(self, choice: Choice, text: str, logprobs: Sequence[TokenLogprob]) -> str:
        """Format a chunk with new text of a completion."""
        content = f'{{"content":{_dump_json(text)}}}' if self._is_chat else _dump_json(text)
        chances = "null"
        if logprobs:
            chances = _dump_json(format_logprobs(logprobs, is_chat=self._is_chat, offset=choice.characters))
            choice.characters += sum(len(one.token) for one in logprobs)
        return self._format_chunk(choice.index, content, chances, "null")

    def format_finish_chunk(self, choice: Choice) -> str:
        """Format the chunk with the finish reason of a completion."""
        return self._format_chunk(
            choice.index, "{}" if self._is_chat else '""', "null", _dump_json(choice.finish_reason)
        )

    def format_usage_chunk(self, usage: Usage) -> str:
        """Format the final chunk, which has no choices and reports the token usage."""
        return f'{self._head},"choices":[],"usage":{usage.model_dump_json()}}}\n\n'

    def _format_chunk(self, index: int, content: str, logprobs: str, finish_reason: str) -> str:
        name = "delta" if self._is_chat else "text"
        choice = f'{{"index":{index},"{name}":{content},"logprobs":{logprobs},"finish_reason":{finish_reason}}}'
        return f'{self._head},"choices":[{choice}]{self._tail}'


def build_chat_completion(
    answer_id: str, created: int, model: str, choices: Sequence[Choice], usage: Usage
) -> ChatCompletionObject:
    """Return the complete answer to a chat."""
    shown = [
        ChatChoice(
            index=choice.index,
            message=ChatMessage(content="".join(choice.texts)),
            logprobs=format_logprobs(choice.logprobs, is_chat=True) if choice.logprobs else None,
            finish_reason=choice.finish_reason or "stop",
        )
        for choice in choices
    ]
    return ChatCompletionObject(id=answer_id, created=created, model=model, choices=shown, usage=usage)


def build_text_completion(
    answer_id: str, created: int, model: str, choices: Sequence[Choice], usage: Usage
) -> TextCompletionObject:
    """Return the complete continuations of all prompts."""
    shown = [
        TextChoice(
            index=choice.index,
            text="".join(choice.texts),
            logprobs=format_logprobs(choice.logprobs, is_chat=False) if choice.logprobs else None,
            finish_reason=choice.finish_reason or "stop",
        )
        for choice in choices
    ]
    return TextCompletionObject(id=answer_id, created=created, model=model, choices=shown, usage=usage)


def format_logprobs(chances: Sequence[TokenLogprob], *, is_chat: bool, offset: int = 0) -> dict[str, Any]:
    """Return log-probabilities in OpenAI's format; `offset` is the number of characters before the first token."""
    if is_chat:
        content = [
            {**_format_token(one), "top_logprobs": list(map(_format_token, one.alternatives))} for one in chances
        ]
        return {"content": content, "refusal": None}
    offsets = [offset]
    for one in chances:
        offsets.append(offsets[-1] + len(one.token))
    return {
        "tokens": [one.token for one in chances],
        "token_logprobs": [one.logprob for one in chances],
        "top_logprobs": [{other.token: other.logprob for other in one.alternatives} for one in chances],
        "text_offset": offsets[:-1],
    }


def format_error_event(error: Mapping[str, Any]) -> bytes:
    """Format the event that ends a stream whose answer cannot be completed."""
    return f"event: error\ndata: {_dump_json({'error': error})}\n\n".encode()


def _format_token(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.token, "bytes": list(one.bytes), "logprob": one.logprob}


def _dump_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
