"""Byte tokens: how tokens of unfinished characters, which llama.cpp's server leaves out, are found again."""

import codecs
from collections.abc import Sequence

from baichuan_core.tokenizer import BaichuanTokenizer


class ByteTokens:
    """The 256 pieces of a vocabulary that stand for one byte each."""

    def __init__(self, tokenizer: BaichuanTokenizer) -> None:
        pieces = tokenizer.sp_model
        self._byte_of = {
            token: int(pieces.IdToPiece(token)[1:-1], 16) for token in range(len(pieces)) if pieces.IsByte(token)
        }
        self._token_of = {byte: token for token, byte in self._byte_of.items()}

    def before(self, token: int, text: str, missing: int) -> list[int] | None:
        """The ``missing`` tokens whose bytes begin ``text``, which ends with ``token``; None if they cannot be told."""
        if not missing:
            return []
        content = text.encode()
        if token not in self._byte_of or len(content) != missing + 1 or not self._token_of:
            return None
        return [self._token_of[byte] for byte in content[:-1]]

    def unfinished(self, tokens: Sequence[int]) -> list[bool]:
        """For each token, whether the text ends inside a character after it."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        states = []
        for token in tokens:
            decoder.decode(bytes([self._byte_of[token]]) if token in self._byte_of else b"-")
            states.append(bool(decoder.getstate()[0]))
        return states
