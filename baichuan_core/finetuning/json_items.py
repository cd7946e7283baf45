"""The examples of a JSON array or of JSON lines, each with the line where it starts."""

import json
from collections.abc import Iterator
from typing import Any

from baichuan_core.errors import DatasetError


def array_items(text: str) -> Iterator[tuple[int, Any]]:
    """Yield line and value of each element of a JSON array, so that a malformed element can be found."""
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
    """A position in JSON text, never on white space, and its line."""

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


def line_items(text: str) -> Iterator[tuple[int, Any]]:
    """Yield line and value of each line of JSON that is not blank."""
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
        " the file must be one JSON array of examples, or one example per line"
    )
