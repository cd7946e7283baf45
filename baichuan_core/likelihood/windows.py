"""Which tokens of a long text are seen together, and which of them are scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.errors import DatasetError, TokenizerError
from baichuan_core.tokenizer import BaichuanTokenizer

SHORTEST_TEXT = 2  # the first token has nothing that predicts it


@dataclass(frozen=True, slots=True)
class Window:
    """A run of tokens that the model sees at once.

    Attributes:
        token_ids: The run.
        first_scored: Index in it of the first token that counts; those before are only context. At least 1.
    """

    token_ids: tuple[int, ...]
    first_scored: int


def text_windows(token_ids: Sequence[int], *, length: int, stride: int) -> list[Window]:
    """Windows of `length` tokens that start every `stride` tokens; the last one may be shorter.

    No token is scored twice. With a stride below the length, every token but the first of the text is scored, with
    `length - stride` tokens of context or more. With a stride equal to the length the windows are independent, and
    the first token of each is not scored.

    Raises:
        DatasetError: There are fewer than two tokens.
        ValueError: The stride is not within 1 and `length`, or the length below 2.
    """
    if not 1 <= stride <= length or length < SHORTEST_TEXT:
        raise ValueError(f"length {length} and stride {stride} make no windows: give 1 <= stride <= length >= 2")
    if len(token_ids) < SHORTEST_TEXT:
        raise DatasetError(f"the text has {len(token_ids)} tokens, too few to score: give a longer one")
    windows = []
    seen = 1
    for start in range(0, len(token_ids), stride):
        run = tuple(token_ids[start : start + length])
        first = max(seen - start, 1)
        if first < len(run):
            windows.append(Window(run, first))
        seen = max(seen, start + len(run))
    return windows


def token_rows(token_ids: Sequence[int], *, rows: int, length: int) -> Tensor:
    """The first `rows` runs of `length` tokens each, int64 [rows, length].

    Raises:
        DatasetError: The text is too short.
    """
    if len(token_ids) < rows * length:
        raise DatasetError(
            f"the text has {len(token_ids)} tokens, and {rows} sequences of {length} need {rows * length}: "
            "give a longer text, or ask for fewer or shorter sequences"
        )
    return torch.tensor(token_ids[: rows * length], dtype=torch.int64).reshape(rows, length)


def encode_plain(tokenizer: BaichuanTokenizer, text: str) -> list[int]:
    """Ids of a text, none of which is a control id.

    Raises:
        DatasetError: The text cannot be encoded; the message names the character.
    """
    try:
        return tokenizer.encode_text(text)
    except TokenizerError as error:
        raise DatasetError(str(error)) from error
