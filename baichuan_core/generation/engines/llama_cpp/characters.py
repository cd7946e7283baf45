"""Recovery of tokens that llama.cpp's server omits from streams because they end in the middle of a character."""

import codecs
from collections.abc import Sequence

from baichuan_core.tokenizer import BaichuanTokenizer


class ByteTokenTable:
    """The 256 tokens of a vocabulary that represent one byte each.

    Example:
        The character "龘" (bytes E9 BE 98) is not in the vocabulary, so it takes three byte tokens.
        The server reports only the last one, <0x98>, with the text "龘" and a token count that has grown by three.
        `infer_omitted_tokens` infers <0xE9> and <0xBE> from the text.
    """

    def __init__(self, tokenizer: BaichuanTokenizer) -> None:
        pieces = tokenizer.sp_model
        self._token_to_byte = {
            token: int(pieces.IdToPiece(token)[1:-1], 16) for token in range(len(pieces)) if pieces.IsByte(token)
        }
        self._byte_to_token = {byte: token for token, byte in self._token_to_byte.items()}

    def infer_omitted_tokens(self, token: int, text: str, missing: int) -> list[int] | None:
        """Infer the tokens omitted before `token`; return None if they are ambiguous.

        Args:
            token: The last token of `text`.
            text: The text of the omitted tokens and of `token`.
            missing: Number of omitted tokens.
        """
        if not missing:
            return []
        content = text.encode()
        if token not in self._token_to_byte or len(content) != missing + 1 or not self._byte_to_token:
            return None
        return [self._byte_to_token[byte] for byte in content[:-1]]

    def flag_incomplete_characters(self, tokens: Sequence[int]) -> list[bool]:
        """Return, for each token, whether the text up to and including it ends in the middle of a character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        states = []
        for token in tokens:
            decoder.decode(bytes([self._token_to_byte[token]]) if token in self._token_to_byte else b"-")
            states.append(bool(decoder.getstate()[0]))
        return states
