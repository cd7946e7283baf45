"""Reads the pieces of `tokenizer.model` without SentencePiece, so that checks need none of the engine's packages.

The file is a protobuf message, `ModelProto` in sentencepiece_model.proto: its field 1 occurs once per piece, and field
1 of a piece is its text. All other fields are skipped.
"""

from collections.abc import Iterator
from pathlib import Path

from .errors import FileError
from .json_files import read_bytes

PIECES_FIELD = TEXT_FIELD = 1
MAX_BYTES = 2**26  # the tokenizer of Baichuan 2 takes 2 MB
# Protobuf's wire types, with the number of bytes of those that have a fixed size.
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
        pieces = [_read_text(value) for number, value in _iterate_fields(content) if number == PIECES_FIELD]
    except ValueError as error:
        raise FileError(f"{file} is not a SentencePiece model ({error}): copy or download it again") from None
    if not pieces:
        raise FileError(f"{file} has no pieces: copy or download it again")
    return pieces


def _read_text(piece: memoryview) -> str:
    texts = [bytes(value) for number, value in _iterate_fields(piece) if number == TEXT_FIELD]
    return texts[-1].decode() if texts else ""


def _iterate_fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and value of each length-delimited field; other fields are skipped."""
    view, offset = memoryview(message), 0
    while offset < len(view):
        tag, offset = _read_varint(view, offset)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, end = _read_varint(view, offset)
        elif wire_type == _LENGTH_DELIMITED:
            length, offset = _read_varint(view, offset)
            end = offset + length
        elif wire_type in _FIXED_SIZES:
            end = offset + _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"unknown wire type {wire_type} at byte {offset}")
        if end > len(view):
            raise ValueError(f"it ends inside the field at byte {offset}")
        if wire_type == _LENGTH_DELIMITED:
            yield tag >> 3, view[offset:end]
        offset = end


def _read_varint(view: memoryview, offset: int) -> tuple[int, int]:
    """Return a number stored with 7 bits per byte, lowest bits first, and the offset of the byte after it."""
    value = 0
    for count, byte in enumerate(view[offset : offset + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:  # noqa: PLR2004 - the highest bit means that another byte follows
            return value, offset + count + 1
    raise ValueError(f"no number at byte {offset}")
