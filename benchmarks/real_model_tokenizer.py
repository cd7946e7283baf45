"""Convert the byte-level BPE of a GGUF model to a SentencePiece file, which Baichuan's tokenizer can read.

Both tokenizers merge the pair that was learned first. On ASCII text, ids are equal except where the GGUF tokenizer
first splits the text by a pattern. Other characters without their own token fall back to single bytes in the
SentencePiece file, and to longer runs of bytes in the GGUF tokenizer.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from transformers.convert_slow_tokenizer import bytes_to_unicode

# Piece types and the BPE model type from sentencepiece_model.proto.
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6
BPE = 2


def write_sentencepiece(tokens: list[str], controls: int, directory: Path) -> None:
    """Write `tokenizer.model` and `tokenizer_config.json`.

    Args:
        tokens: Tokens by id in GPT-2's byte alphabet, in the order in which they were learned.
        controls: Number of control tokens at the start of the list; the first one is the unknown token.
        directory: Directory to write to.
    """
    model = b"".join(
        _field(1, _field(1, piece.encode()) + _float(2, -float(token_id)) + _number(3, kind))
        for token_id, (piece, kind) in enumerate(_build_pieces(tokens, controls))
    )
    trainer = _number(3, BPE) + _number(4, len(tokens)) + _number(35, 1) + _number(40, 0) + _number(41, 1)
    trainer += _number(42, 2) + _field(45, tokens[0].encode()) + _field(46, tokens[1].encode())
    trainer += _field(47, tokens[2].encode())
    normalizer = _field(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    (directory / "tokenizer.model").write_bytes(model + _field(2, trainer) + _field(3, normalizer))
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": tokens[1],
        "eos_token": tokens[2],
        "pad_token": tokens[0],
        "unk_token": tokens[0],
        "tokenizer_class": "BaichuanTokenizer",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _build_pieces(tokens: list[str], controls: int) -> list[tuple[str, int]]:
    """Return piece and type by id; tokens that are parts of characters become the byte pieces of SentencePiece."""
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    pieces: list[tuple[str, int]] = [(token, CONTROL) for token in tokens[:controls]]
    pieces[0] = (tokens[0], UNKNOWN)
    spare: list[int] = []
    missing = set(range(256))
    for token_id, token in enumerate(tokens[controls:], start=controls):
        raw = bytes(to_byte[character] for character in token)
        if (text := _text(raw)) is not None:
            pieces.append((text.replace(" ", "\u2581"), NORMAL))
        elif len(raw) == 1:
            missing.remove(raw[0])
            pieces.append((f"<0x{raw[0]:02X}>", BYTE))
        else:
            spare.append(token_id)
            pieces.append((f"<part {token_id}>", UNUSED))
    # SentencePiece requires all 256 byte pieces, also of bytes that are characters themselves or occur in no text.
    for byte, token_id in zip(sorted(missing), spare, strict=False):
        pieces[token_id] = (f"<0x{byte:02X}>", BYTE)
    return pieces


def _text(raw: bytes) -> str | None:
    """Return the text of a token; None for a part of a character, and for NUL, which SentencePiece does not allow."""
    try:
        return None if raw == b"\0" else raw.decode()
    except UnicodeDecodeError:
        return None


def _varint(number: int) -> bytes:
    return bytes(_septets(number))


def _septets(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


def _field(tag: int, content: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(content)) + content


def _number(tag: int, number: int) -> bytes:
    return _varint(tag << 3) + _varint(number)


def _float(tag: int, number: float) -> bytes:
    return _varint(tag << 3 | 5) + struct.pack("<f", number)
