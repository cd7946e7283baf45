"""The pieces of `tokenizer.model`, read without SentencePiece so that checks need none of the engine's packages.

The file is a protobuf message, `ModelProto` in sentencepiece_model.proto: its field 1 is repeated, once per piece, and
field 1 of a piece is the text. All other fields are skipped.
"""

from collections.abc import Iterator
from pathlib import Path

from .errors import FileError
from .json_files import read_bytes

PIECES = TEXT = 1  # numbers of the fields
MAX_BYTES = 2**26  # the tokenizer of Baichuan 2 has 2 MB
# Wire types of protobuf, with the size in bytes of a value of fixed size.
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}
_MAX_VARINT_BYTES = 10


def read_pieces(file: Path) -> list[str]:
    """Return the texts of all pieces, by id.

    Raises:
        FileError: The file cannot be read or is not a SentencePiece model.
    """
    content = read_bytes(file, MAX_BYTES)
    if not content:
        raise FileError(f"{file} is empty: copy or download it again")
    try:
        pieces = [_read_text(value) for number, value in _iterate_fields(content) if number == PIECES]
    except ValueError as error:
        raise FileError(f"{file} is not a SentencePiece model ({error}): copy or download it again") from None
    if not pieces:
        raise FileError(f"{file} has no pieces: copy or download it again")
    return pieces


def _read_text(piece: memoryview) -> str:
    texts = [bytes(value) for number, value in _iterate_fields(piece) if number == TEXT]
    return texts[-1].decode() if texts else ""


def _iterate_fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and value of each length-delimited field; other fields are skipped."""
    view, place = memoryview(message), 0
    while place < len(view):
        tag, place = _read_varint(view, place)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, end = _read_varint(view, place)
        elif wire_type == _LENGTH_DELIMITED:
            length, place = _read_varint(view, place)
            end = place + length
        elif wire_type in _FIXED_SIZES:
            end = place + _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"unknown wire type {wire_type} at byte {place}")
        if end > len(view):
            raise ValueError(f"it ends in the field at byte {place}")
        if wire_type == _LENGTH_DELIMITED:
            yield tag >> 3, view[place:end]
        place = end


def _read_varint(view: memoryview, place: int) -> tuple[int, int]:
    """Return a number that is stored 7 bits per byte, the lowest first, and the place behind it."""
    value = 0
    for count, byte in enumerate(view[place : place + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:  # noqa: PLR2004 - the highest bit says that another byte follows
            return value, place + count + 1
    raise ValueError(f"no number at byte {place}")
