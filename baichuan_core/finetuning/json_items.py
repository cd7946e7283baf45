"""Reads the elements of a JSON array or of JSON lines chunk by chunk, each with its line number."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from baichuan_core.errors import DatasetError
from checkpoint_files.json_files import describe_json_error

MAX_ELEMENT_CHARACTERS = 2**28
# A JSON error this close to the end of the text read so far may be caused by the boundary between two chunks.
CHUNK_END_MARGIN_CHARACTERS = 16
WHITESPACE = " \t\r\n"


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; by default, `json` silently keeps only the last of several equal keys."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise json.JSONDecodeError(f"{repeated!r} is given more than once in the same object", "", 0)
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_build_object)


def read_array_items(chunks: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Yield the line number and the value of each element of a JSON array."""
    cursor = _Cursor(chunks)
    cursor.skip("[")
    if cursor.next_is("]"):
        return
    while True:
        line = cursor.line
        yield line, cursor.decode()
        if cursor.next_is("]"):
            cursor.skip("]")
            break
        cursor.skip(",")
    if cursor.position < len(cursor.text):
        raise _make_invalid_json_error(cursor.line, "text after the end of the array")


class _Cursor:
    """A position in JSON text, never on white space, and its line number; text before the position is discarded."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self.chunks = chunks
        self.text = ""
        self.position = 0
        self.line = 1
        self.move_to(0)

    def move_to(self, position: int) -> None:
        self.line += self.text.count("\n", self.position, position)
        self.position = position
        while True:
            while position < len(self.text) and self.text[position] in WHITESPACE:
                position += 1
            self.line += self.text.count("\n", self.position, position)
            self.position = position
            if position < len(self.text) or not self.read_more():
                return
            position = self.position

    def read_more(self) -> bool:
        """Read more text, at least doubling the text after the position; return False at the end of the file."""
        parts = [self.text[self.position :]]
        missing = max(1, len(parts[0]))
        while missing > 0 and (chunk := next(self.chunks, "")):
            parts.append(chunk)
            missing -= len(chunk)
        self.text, self.position = "".join(parts), 0
        return len(parts) > 1

    def next_is(self, character: str) -> bool:
        return self.text.startswith(character, self.position)

    def skip(self, character: str) -> None:
        if not self.next_is(character):
            raise _make_invalid_json_error(self.line, f"expected {character!r}")
        self.move_to(self.position + 1)

    def decode(self) -> Any:
        """Return the value at the position and move past it."""
        while True:
            try:
                item, end = _DECODER.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                line = self.line + self.text.count("\n", self.position, error.pos)
                if not (self._may_be_truncated(error) and self.read_more()):
                    raise _make_invalid_json_error(line, describe_json_error(error)) from error
            except (ValueError, RecursionError) as error:  # too many digits or nested brackets
                raise _make_invalid_json_error(self.line, describe_json_error(error)) from error
            else:
                # A number this close to the end of the text read so far may continue with more digits or an exponent.
                length = end - self.position
                if end < len(self.text) - CHUNK_END_MARGIN_CHARACTERS or not self.read_more():
                    self.move_to(self.position + length)
                    return item

    def _may_be_truncated(self, error: json.JSONDecodeError) -> bool:
        if len(self.text) - self.position > MAX_ELEMENT_CHARACTERS:
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - CHUNK_END_MARGIN_CHARACTERS


def read_line_items(chunks: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Yield the line number and the value of each line that is not blank."""
    for line, content in enumerate(_split_lines(chunks), start=1):
        if not content.strip():
            continue
        try:
            yield line, json.loads(content, object_pairs_hook=_build_object)
        except (ValueError, RecursionError) as error:
            raise _make_invalid_json_error(line, describe_json_error(error)) from error


def _split_lines(chunks: Iterator[str]) -> Iterator[str]:
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from lines
    yield rest


def _make_invalid_json_error(line: int, reason: str) -> DatasetError:
    return DatasetError(
        f"line {line} of the training data is not JSON: {reason};"
        " the file must be one JSON array of examples, or have one example per line"
    )
