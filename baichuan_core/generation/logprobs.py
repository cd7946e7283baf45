"""Logarithms of probabilities in the shape of OpenAI's chat API (`logprobs.content`)."""

import re
from collections.abc import Sequence
from typing import Any

from baichuan_core.generation.engines.outputs import TokenLogprobs
from baichuan_core.tokenizer import BaichuanTokenizer

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE_OF_A_PIECE = "\N{LOWER ONE EIGHTH BLOCK}"


def openai_logprobs(tokenizer: BaichuanTokenizer, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """``{"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...]}``, one entry a token."""
    return {
        "content": [
            _entry(tokenizer, one.token_id, one.logprob)
            | {"top_logprobs": [_entry(tokenizer, *alternative) for alternative in one.alternatives]}
            for one in logprobs
        ]
    }


def _entry(tokenizer: BaichuanTokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    content = _token_bytes(tokenizer, token_id)
    return {"token": content.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(content)}


def _token_bytes(tokenizer: BaichuanTokenizer, token_id: int) -> bytes:
    """The text that a token stands for; a byte piece may be a part of a character only."""
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    if byte := BYTE_PIECE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace(SPACE_OF_A_PIECE, " ").encode()
