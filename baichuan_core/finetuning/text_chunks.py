"""Reads text files in chunks, so that a file can be larger than memory."""

import re
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.errors import DatasetError

CHUNK_CHARACTERS = 2**20
# Maximum size of a chunk of plain text to encode; the tokenizer needs about 100 bytes of memory per character.
MAX_TEXT_CHUNK_CHARACTERS = 2**16
CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")  # except tabs, line breaks and form feeds


def read_chunks(path: Path) -> Iterator[str]:
    r"""Yield the text of a UTF-8 file in chunks, without a byte order mark and with `\n` as the line ending.

    Raises:
        DatasetError: The file cannot be read or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            while chunk := stream.read(CHUNK_CHARACTERS):
                yield chunk
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        place = _find_invalid_byte(path)
        raise DatasetError(f"{path.name} is not UTF-8 (byte {place}); save it as UTF-8") from error


@dataclass(frozen=True, slots=True)
class TextChunks:
    """The text of a file in chunks, without leading and trailing white space; each iteration reads the file again.

    A chunk starts with a line break where possible: no token spans a line break, so the chunks encode to the same
    tokens as the whole text.
    """

    path: Path

    def __iter__(self) -> Iterator[str]:
        text, line = "", 1
        for chunk in read_chunks(self.path):
            if found := CONTROL_CHARACTER.search(chunk):
                line += chunk.count("\n", 0, found.start())
                raise DatasetError(
                    f"line {line} of {self.path.name} contains the control character U+{ord(found[0]):04X};"
                    " remove it, or convert the file to text"
                )
            line += chunk.count("\n")
            text = text + chunk if text else chunk.lstrip()
            while len(text) > MAX_TEXT_CHUNK_CHARACTERS:
                end = text.rfind("\n", 1, MAX_TEXT_CHUNK_CHARACTERS)
                end = MAX_TEXT_CHUNK_CHARACTERS if end < 0 else end
                yield text[:end]
                text = text[end:]
        if text := text.rstrip():
            yield text


def _find_invalid_byte(path: Path) -> int:
    """Return the 1-based position of the first byte that is not valid UTF-8, not counting a byte order mark."""
    decoder, passed = getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as stream:
        data = stream.read(CHUNK_CHARACTERS).removeprefix(BOM_UTF8)
        while data:
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(data)
            except UnicodeDecodeError as error:
                return passed - pending + error.start + 1
            passed += len(data)
            data = stream.read(CHUNK_CHARACTERS)
    return passed  # the file ends in the middle of a character
