"""Parses a SentencePiece model: its pieces with scores and types, and whether it adds a space before every text."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.errors import TokenizerError

# Field numbers of ModelProto, SentencePiece and NormalizerSpec in sentencepiece_model.proto.
_PIECES, _NORMALIZER = 1, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_ADD_DUMMY_PREFIX = 3
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of a vocabulary; `kind` is a `SentencePiece.Type`, whose values GGUF also uses."""

    text: bytes
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces of a tokenizer by id, and whether it adds a space before every text."""

    pieces: list[Piece]
    add_dummy_prefix: bool


def read_vocabulary(file: Path) -> Vocabulary:
    """Read a `tokenizer.model` file.

    Raises:
        TokenizerError: The file is not a SentencePiece model.
    """
    pieces: list[Piece] = []
    add_dummy_prefix = True  # the default in sentencepiece_model.proto
    try:
        for field, content in _iterate_fields(file.read_bytes()):
            if field == _PIECES and isinstance(content, bytes):
                pieces.append(_parse_piece(content))
            elif field == _NORMALIZER and isinstance(content, bytes):
                add_dummy_prefix = bool(dict(_iterate_fields(content)).get(_ADD_DUMMY_PREFIX, True))
    except (IndexError, struct.error, ValueError) as error:
        raise TokenizerError(f"{file} is damaged ({error}): copy or download it again") from error
    if not pieces:
        raise TokenizerError(f"{file} has no pieces: copy or download it again")
    return Vocabulary(pieces, add_dummy_prefix)


def _parse_piece(content: bytes) -> Piece:
    fields = dict(_iterate_fields(content))
    text, score, kind = fields.get(_TEXT, b""), fields.get(_SCORE, b"\0\0\0\0"), fields.get(_TYPE, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a field of a piece has the wrong type")  # noqa: TRY004 - the file is wrong, not an argument
    return Piece(text, float(struct.unpack("<f", score)[0]), kind)


def _iterate_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield each field's number with its integer or bytes value (https://protobuf.dev/programming-guides/encoding)."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        match key & 7:
            case 0:
                number, position = _read_varint(message, position)
                yield key >> 3, number
                continue
            case 1:
                size = 8
            case 2:
                size, position = _read_varint(message, position)
            case 5:
                size = 4
            case unknown:
                raise ValueError(f"unknown wire type {unknown} at byte {position}")
        if position + size > len(message):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, message[position : position + size]
        position += size


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:  # noqa: PLR2004 - the highest bit of the last byte is 0
            return number, position
        shift += 7
