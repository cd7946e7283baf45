"""Reads JSON values from a file in chunks: one value per line, or the elements of an array."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from checkpoint_files.json_files import describe_json_error
from jobs.inputs.duplicate_keys import DuplicateKeyFinder

MAX_VALUE_BYTES = 16 * 2**20  # maximum size of a line or of an array element
CHUNK_CHARACTERS = 2**20
SNIFF_BYTES = 1024
WHITE_SPACE = re.compile(r"[ \t\r\n]*")


class InputError(ValueError):
    """An uploaded file cannot be used.

    Attributes:
        line: Number of the faulty line; None if the whole file is at fault.
        message: What is wrong, and the remedy.
        param: The field at fault within the line, if any.
    """

    def __init__(self, message: str, *, line: int | None = None, param: str | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line
        self.message = message
        self.param = param


def read_beginning(path: Path) -> bytes:
    """Return the first bytes of a file after leading white space; empty if the file has only white space."""
    with path.open("rb") as file:
        beginning = file.read(SNIFF_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
        while not beginning and (more := file.read(CHUNK_CHARACTERS)):
            beginning = more.lstrip()
    return beginning


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and value of each line that is not blank.

    Raises:
        InputError: A line is not UTF-8 or not JSON, is too long, or has an object with duplicate keys.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_VALUE_BYTES + 1):
            number += 1
            if len(raw) > MAX_VALUE_BYTES:
                raise InputError(f"is longer than {MAX_VALUE_BYTES} bytes; split it", line=number)
            if content := _decode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, number).strip():
                yield number, _parse(content, number)


def read_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line number and value of each element of a JSON array.

    Raises:
        InputError: The file is not UTF-8 or not a JSON array, or an element is too long or has duplicate keys.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        window = _JsonScanner(file)
        window.skip("[")
        is_empty = window.next_is("]")
        while not is_empty:
            yield window.take_value()
            if window.next_is("]"):
                break
            window.skip(",")
        window.skip("]")
        if window.next_is(""):
            return
        raise InputError("the file has text after the end of the array; remove it", line=window.line)


class _JsonScanner:
    """A scanner over the JSON text in a file; keeps only the part that is being parsed."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._text = ""
        self._position = 0
        self.line = 1

    def next_is(self, text: str) -> bool:
        """Whether the next character after white space is `text`; "" stands for the end of the file."""
        while True:
            end = WHITE_SPACE.match(self._text, self._position).end()  # type: ignore[union-attr] # matches anywhere
            self._move_to(end)
            if self._position < len(self._text):
                return self._text[self._position] == text
            if not self._read_chunk():
                return not text

    def skip(self, text: str) -> None:
        """Consume the next character, which must be `text`."""
        if not self.next_is(text):
            raise InputError(
                f"expected {text!r}; the file must contain one JSON array, or one JSON object per line", line=self.line
            )
        self._move_to(self._position + 1)

    def take_value(self) -> tuple[int, Any]:
        """Parse the next value, reading until it is complete; return the number of its first line, and the value."""
        self.next_is("")
        line = self.line
        while True:
            duplicates = DuplicateKeyFinder()
            try:
                decoder = json.JSONDecoder(object_pairs_hook=duplicates.read_object)
                value, end = decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                error_line = line + self._count_lines_to(error.pos)
                if len(self._text) - self._position > MAX_VALUE_BYTES or not self._read_chunk(double=True):
                    raise InputError(f"is not JSON: {describe_json_error(error)}", line=error_line) from None
                continue
            except (ValueError, RecursionError) as error:
                raise InputError(f"is not JSON: {describe_json_error(error)}", line=line) from None
            if end < len(self._text) or not self._read_chunk():  # a number may continue in the next chunk
                self._move_to(end)
                _reject_duplicate_key(duplicates, line)
                return line, value

    def _count_lines_to(self, position: int) -> int:
        return self._text.count("\n", self._position, position)

    def _move_to(self, position: int) -> None:
        self.line += self._count_lines_to(position)
        self._position = position

    def _read_chunk(self, *, double: bool = False) -> bool:
        """Read the next chunk and drop parsed text; return False at the end of the file."""
        self._text, self._position = self._text[self._position :], 0
        try:
            more = self._file.read(max(CHUNK_CHARACTERS, len(self._text) if double else 0))
        except UnicodeDecodeError as error:
            raise InputError(f"the file is not UTF-8 ({error.reason}); save it as UTF-8") from None
        self._text += more
        return bool(more)


def _decode(raw: bytes, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 (byte {error.start + 1}); save the file as UTF-8", line=line) from None


def _parse(content: str, line: int) -> Any:
    duplicates = DuplicateKeyFinder()
    try:
        value = json.loads(content, object_pairs_hook=duplicates.read_object)
    except (ValueError, RecursionError) as error:
        reason = describe_json_error(error)
        raise InputError(f"is not JSON: {reason}; write one JSON object per line", line=line) from None
    _reject_duplicate_key(duplicates, line)
    return value


def _reject_duplicate_key(duplicates: DuplicateKeyFinder, line: int) -> None:
    if duplicates.name is not None:
        message = f"{duplicates.path} is given more than once in the same object; keep only one"
        raise InputError(message, line=line, param=duplicates.path)
