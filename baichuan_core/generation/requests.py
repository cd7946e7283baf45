"""What a generation run is asked: plain prompts or chats, one JSON object a line in a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan_core.errors import DatasetError, PromptError, TokenizerError
from baichuan_core.text_file import read_text_file
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat, Message, build_chat_prompt


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request: a text to go on with, or a chat to answer.

    Attributes:
        prompt: Text, tokenized as it is; control pieces in it are control pieces.
        messages: A chat in place of ``prompt``; text in it never yields a control id.
        id: The caller's own name of the request; it comes back with the completion.
    """

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise PromptError("a request needs either 'prompt' or 'messages', not both")


def read_requests(path: Path | str) -> list[GenerationRequest]:
    """Reads requests, one JSON object ``{"prompt": ...}`` or ``{"messages": [...]}`` a line, each with an optional id.

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
    try:
        return GenerationRequest(prompt, messages, None if request_id is None else str(request_id))
    except PromptError as error:
        raise DatasetError(f"{place}: {error}") from error


def _is_chat(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in messages
    )


def encode_request(
    tokenizer: BaichuanTokenizer,
    request: GenerationRequest,
    *,
    number: int,
    window: int,
    max_new_tokens: int,
    chat_format: ChatFormat,
) -> list[int]:
    """Prompt ids of a request.

    Args:
        tokenizer: The checkpoint's tokenizer.
        request: What is asked.
        number: Which request it is, counted from one, for messages.
        window: The model's length in tokens.
        max_new_tokens: Room that a chat leaves for its answer; a plain prompt may take all but one token.
        chat_format: How the checkpoint writes chats.

    Raises:
        PromptError: The prompt is empty, too long or cannot be encoded; the message names the request.
    """
    try:
        if request.messages is not None:
            return build_chat_prompt(
                tokenizer,
                request.messages,
                model_max_length=window,
                max_new_tokens=max_new_tokens,
                chat_format=chat_format,
            )
        ids = _encode_prompt(tokenizer, request.prompt or "")
    except (PromptError, TokenizerError) as error:
        raise PromptError(f"request {number}: {error}") from error
    if not ids:
        raise PromptError(f"request {number}: the prompt is empty; give it at least one character")
    if len(ids) >= window:
        raise PromptError(
            f"request {number}: the prompt has {len(ids)} tokens and the window of the model {window};"
            f" shorten it to fewer than {window}"
        )
    return ids


def _encode_prompt(tokenizer: BaichuanTokenizer, prompt: str) -> list[int]:
    tokenizer.encode_text(prompt)  # refuses what cannot be encoded
    ids: list[int] = tokenizer.encode(prompt)
    return ids
