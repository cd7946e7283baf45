"""Windows of tokens, into which a long text is split."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.errors import DatasetError, TokenizerError
from baichuan_core.tokenizer import BaichuanTokenizer

MIN_TEXT_TOKENS = 2  # the first token cannot be scored, because no token precedes it


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens that the model processes as one sequence.

    Attributes:
        token_ids: The tokens.
        first_scored: Index of the first token that is scored, at least 1; the tokens before it are only context.
    """

    token_ids: tuple[int, ...]
    first_scored: int


def split_into_windows(token_ids: Sequence[int], *, length: int, stride: int) -> list[Window]:
    """Split a text into windows of `length` tokens that start every `stride` tokens; the last may be shorter.

    No token is scored twice. If the stride is smaller than the length, every token except the first of the text is
    scored, with at least `length - stride` tokens of context. If the stride equals the length, windows are independent
    and the first token of each is not scored.

    Example:
        Tokens 0 to 5 with length 4 and stride 2 give two windows:
        0 1 2 3, which scores 1 2 3, and
        2 3 4 5, which scores 4 5.

    Raises:
        DatasetError: There are fewer than two tokens.
        ValueError: The stride is not between 1 and `length`, or the length is less than 2.
    """
    if not 1 <= stride <= length or length < MIN_TEXT_TOKENS:
        raise ValueError(f"length {length} and stride {stride} are invalid: use 1 <= stride <= length and length >= 2")
    if len(token_ids) < MIN_TEXT_TOKENS:
        raise DatasetError(f"the text has {len(token_ids)} tokens, too few to score: use a longer text")
    windows = []
    seen = 1
    for start in range(0, len(token_ids), stride):
        run = tuple(token_ids[start : start + length])
        first = max(seen - start, 1)
        if first < len(run):
            windows.append(Window(run, first))
        seen = max(seen, start + len(run))
    return windows


def make_token_rows(token_ids: Sequence[int], *, rows: int, length: int) -> Tensor:
    """Return the first `rows * length` tokens as int64 [rows, length].

    Raises:
        DatasetError: The text is too short.
    """
    if len(token_ids) < rows * length:
        raise DatasetError(
            f"the text has {len(token_ids)} tokens, but {rows} sequences of {length} need {rows * length}: "
            "use a longer text, or fewer or shorter sequences"
        )
    return torch.tensor(token_ids[: rows * length], dtype=torch.int64).reshape(rows, length)


def encode_plain_text(tokenizer: BaichuanTokenizer, text: str) -> list[int]:
    """Encode a text, treating control tokens in it as ordinary text.

    Raises:
        DatasetError: The text cannot be encoded; the message names the character.
    """
    try:
        return tokenizer.encode_text(text)
    except TokenizerError as error:
        raise DatasetError(str(error)) from error
