"""Log-probabilities in the format of OpenAI's chat API (`logprobs.content`)."""

import re
from collections.abc import Sequence
from typing import Any

from baichuan_core.generation.engines.outputs import TokenLogprobs
from baichuan_core.tokenizer import BaichuanTokenizer

BYTE_PIECE_PATTERN = re.compile(r"<0x([0-9A-F]{2})>")
SENTENCEPIECE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def format_openai_logprobs(tokenizer: BaichuanTokenizer, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """Return `{"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...]}` with one entry per token."""
    return {
        "content": [
            _format_logprob_entry(tokenizer, one.token_id, one.logprob)
            | {"top_logprobs": [_format_logprob_entry(tokenizer, *alternative) for alternative in one.alternatives]}
            for one in logprobs
        ]
    }


def _format_logprob_entry(tokenizer: BaichuanTokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    content = _get_token_bytes(tokenizer, token_id)
    return {"token": content.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(content)}


def _get_token_bytes(tokenizer: BaichuanTokenizer, token_id: int) -> bytes:
    """Return the UTF-8 bytes of a token's text; a byte token may represent only part of a character."""
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    if byte := BYTE_PIECE_PATTERN.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace(SENTENCEPIECE_SPACE, " ").encode()
