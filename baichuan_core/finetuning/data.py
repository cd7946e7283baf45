"""The published fine-tuning data format: conversations in, ``input_ids`` and ``labels`` out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan_core.errors import DatasetError, TokenizerError
from baichuan_core.text_file import read_text_file
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat

IGNORED_LABEL = -100

_USER_ROLES = {"human", "user"}
_ASSISTANT_ROLES = {"gpt", "assistant"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One example of the data set.

    Attributes:
        place: Where it stands, for messages: "line 12 (example 3)".
        turns: ``(is_user, text)`` of each turn.
    """

    place: str
    turns: tuple[tuple[bool, str], ...]


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """``input_ids`` and ``labels`` of one example, both [seq]; not shifted, -100 carries no loss."""

    input_ids: list[int]
    labels: list[int]
    is_truncated: bool = False

    @property
    def has_answer(self) -> bool:
        """Whether any label is left once the model has shifted them by one."""
        return any(label != IGNORED_LABEL for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The examples that can be learned from, and how many could not.

    Attributes:
        examples: Encoded examples, in the order of the file.
        dropped: Examples without a label inside the window; their loss would be NaN.
        truncated: Examples whose end was cut off; they teach no end of the answer.
    """

    examples: list[EncodedExample]
    dropped: int
    truncated: int


def read_conversations(path: Path) -> list[Conversation]:
    """Reads a data set in the published form, as one JSON array or with one example a line.

    An example is ``{"id": ..., "conversations": [{"from": ..., "value": ...}, ...]}``;
    ``from`` is ``human`` (or ``user``) or ``gpt`` (or ``assistant``).

    Raises:
        DatasetError: The file is missing, not UTF-8, not JSON, or holds a malformed example; the message
            names the line.
    """
    text = read_text_file(path)
    items = _array_items(text) if text.lstrip().startswith("[") else _line_items(text)
    conversations = [
        _conversation(item, f"line {line} (example {number})") for number, (line, item) in enumerate(items, start=1)
    ]
    if not conversations:
        raise DatasetError(f"the training data {path.name} holds no example; add at least one conversation")
    return conversations


def _array_items(text: str) -> Iterator[tuple[int, Any]]:
    """Line and value of each element of a JSON array, so that a malformed element can be found."""
    decoder = json.JSONDecoder()
    cursor = _Cursor(text)
    cursor.skip("[")
    if cursor.next_is("]"):
        return
    while True:
        line = cursor.line
        try:
            item, end = decoder.raw_decode(text, cursor.position)
        except json.JSONDecodeError as error:
            raise _not_json(error.lineno, error.msg) from error
        except (ValueError, RecursionError) as error:  # a number of 5000 digits, 100 000 brackets
            raise _not_json(line, str(error)) from error
        yield line, item
        cursor.move_to(end)
        if cursor.next_is("]"):
            cursor.skip("]")
            break
        cursor.skip(",")
    if cursor.position < len(text):
        raise _not_json(cursor.line, "text after the end of the array")


class _Cursor:
    """A position in JSON text that knows its line and stands on no white space."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line = 1
        self.move_to(0)

    def move_to(self, position: int) -> None:
        while position < len(self.text) and self.text[position] in " \t\r\n":
            position += 1
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def next_is(self, character: str) -> bool:
        return self.text.startswith(character, self.position)

    def skip(self, character: str) -> None:
        if not self.next_is(character):
            raise _not_json(self.line, f"expected {character!r}")
        self.move_to(self.position + 1)


def _line_items(text: str) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            yield line, json.loads(content)
        except json.JSONDecodeError as error:
            raise _not_json(line, error.msg) from error
        except (ValueError, RecursionError) as error:
            raise _not_json(line, str(error)) from error


def _not_json(line: int, reason: str) -> DatasetError:
    return DatasetError(
        f"line {line} of the training data is not JSON: {reason};"
        " the file must be one JSON array of examples, or one example a line"
    )


def _conversation(item: Any, place: str) -> Conversation:
    if not isinstance(item, dict):
        raise DatasetError(f"{place} is not an object; write {{'id': ..., 'conversations': [...]}}")
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DatasetError(f"{place} has no turns; give 'conversations' as a list of {{'from': ..., 'value': ...}}")
    return Conversation(
        place, tuple(_turn(turn, f"{place}, turn {number}") for number, turn in enumerate(turns, start=1))
    )


def _turn(turn: Any, place: str) -> tuple[bool, str]:
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        raise DatasetError(f"{place} needs both 'from' and 'value'")
    role, value = turn["from"], turn["value"]
    if not isinstance(role, str) or role not in _USER_ROLES | _ASSISTANT_ROLES:
        raise DatasetError(f"{place} has the unknown role {role!r}; use 'human' or 'gpt'")
    if not isinstance(value, str):
        raise DatasetError(f"{place} has a 'value' that is no text; write it as a string")
    return role in _USER_ROLES, value


def encode_conversation(
    tokenizer: BaichuanTokenizer,
    conversation: Conversation,
    *,
    max_length: int,
    chat_format: ChatFormat | None = None,
) -> EncodedExample:
    """Labels as in the published ``fine-tune.py``: answers and eos are learned, questions are not.

    A user turn is its opening id and text, with labels eos, -100, ...; an answer is its opening id and text,
    with labels -100, text. eos ends the example, and the tail beyond ``max_length`` is cut.

    Raises:
        DatasetError: A text cannot be encoded.
    """
    chat_format = chat_format or ChatFormat()
    eos = tokenizer.eos_token_id
    input_ids: list[int] = []
    labels: list[int] = []
    for is_user, text in conversation.turns:
        try:
            ids = tokenizer.encode_text(text)
        except TokenizerError as error:
            raise DatasetError(f"{conversation.place}: {error}") from error
        input_ids += [chat_format.user_token_id if is_user else chat_format.assistant_token_id, *ids]
        labels += [eos, *[IGNORED_LABEL] * len(ids)] if is_user else [IGNORED_LABEL, *ids]
    input_ids.append(eos)
    labels.append(eos)
    return EncodedExample(input_ids[:max_length], labels[:max_length], len(input_ids) > max_length)


def encode_training_data(
    tokenizer: BaichuanTokenizer,
    conversations: Sequence[Conversation],
    *,
    max_length: int,
    chat_format: ChatFormat | None = None,
) -> TrainingData:
    """Encodes the whole data set and drops what holds no label inside the window.

    Raises:
        DatasetError: A text cannot be encoded, or no example is left.
    """
    encoded = [
        encode_conversation(tokenizer, conversation, max_length=max_length, chat_format=chat_format)
        for conversation in conversations
    ]
    examples = [example for example in encoded if example.has_answer]
    if not examples:
        raise DatasetError(
            f"none of the {len(encoded)} examples has an answer within max_length {max_length};"
            " shorten the questions, raise max_length, or add 'gpt' turns"
        )
    return TrainingData(
        examples=examples,
        dropped=len(encoded) - len(examples),
        truncated=sum(example.is_truncated for example in examples),
    )
