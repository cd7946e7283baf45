"""The pieces of a SentencePiece model, read without SentencePiece."""

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from checkpoint_files import FileError
from checkpoint_files.sentencepiece_model import read_pieces

GOLDEN = Path(__file__).parents[1] / "golden" / "chat" / "tokenizer.model"
SAME_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: float | bytes) -> bytes:
    match value:
        case int():
            return varint(number << 3) + varint(value)
        case float():
            return varint(number << 3 | 5) + struct.pack("<f", value)
        case bytes():
            return varint(number << 3 | 2) + varint(len(value)) + value


values = st.integers(0, 2**64 - 1) | st.floats(width=32) | st.binary(max_size=200)
other_fields = st.builds(field, st.integers(2, 300), values)
pieces = st.tuples(st.text(max_size=80), st.lists(other_fields, max_size=2))


def test_a_real_model_has_the_pieces_that_sentencepiece_reads() -> None:
    model = SentencePieceProcessor(str(GOLDEN))
    assert read_pieces(GOLDEN) == [model.IdToPiece(number) for number in range(model.GetPieceSize())]


@SAME_FILE
@given(st.lists(pieces, min_size=1), st.lists(other_fields, max_size=3))
def test_pieces_are_found_among_other_fields(
    tmp_path: Path, wanted: list[tuple[str, list[bytes]]], others: list[bytes]
) -> None:
    file = tmp_path / "tokenizer.model"
    encoded = [field(1, field(1, text.encode()) + b"".join(rest)) for text, rest in wanted]
    file.write_bytes(b"".join([*others, *encoded, *others]))
    assert read_pieces(file) == [text for text, _ in wanted]


@SAME_FILE
@given(st.binary(max_size=300) | st.integers(0, GOLDEN.stat().st_size - 1).map(lambda end: GOLDEN.read_bytes()[:end]))
def test_damaged_files_are_read_in_part_or_rejected(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with suppress(FileError):
        assert read_pieces(file)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"tokens", b"{}", b"\x12\x00"])
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(FileError, match=r"tokenizer\.model (is not a SentencePiece model|has no pieces)"):
        read_pieces(file)
