"""Calibration data: rows of token ids from the built-in text, a file, or the caller."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.errors import DatasetError
from baichuan_core.likelihood import encode_plain_text, load_calibration_text
from baichuan_core.text_file import read_text_file

MIN_TOKENS = 2048  # with fewer, codes overfit the calibration text
MIN_DISTINCT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration data for a quantization.

    Choose a text similar to what the model will be used for. The result is deterministic: the same text gives the same
    bytes.

    Attributes:
        text: A UTF-8 text file; by default the built-in Chinese and English text.
        token_ids: Token ids to use instead of a text, e.g. the `input_ids` of fine-tuning examples.
        sequences: Maximum number of rows of `length` tokens; there are fewer if the text is shorter.
        length: Tokens per row, limited to the model's context length.
        seed: Seed for choosing rows from a longer text.
        built_in_fraction: Fraction of the rows to take from the built-in text in addition to `text` or `token_ids`, at
            least 0 and below 1. One eighth limits the quality loss on other kinds of text at little cost to the chosen
            kind. A fraction above 0 requires the checkpoint's tokenizer.
    """

    text: Path | str | None = None
    token_ids: Sequence[Sequence[int]] | None = None
    sequences: int = 32
    length: int = 512
    seed: int = 0
    built_in_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.text is not None and self.token_ids is not None:
            raise ValueError("text and token_ids are both given: pass only one of them")
        if self.sequences < 1 or self.length < 2:  # noqa: PLR2004
            raise ValueError(
                f"{self.sequences} sequences of {self.length} tokens: use at least 1 sequence of at least 2 tokens"
            )
        if not 0 <= self.built_in_fraction < 1:
            raise ValueError(f"built_in_fraction is {self.built_in_fraction}: it must be at least 0 and less than 1")


def read_calibration_rows(checkpoint: Path, config: BaichuanConfig, calibration: Calibration) -> Tensor:
    """Return the token ids of the rows, int64 [rows, length].

    Raises:
        DatasetError: The text cannot be read, is too short, has too few distinct tokens, or has token ids that the
            model does not have.
        TokenizerError: There is a text to encode and the checkpoint has no tokenizer.
    """
    source, ids = _read_token_ids(checkpoint, calibration)
    length = min(calibration.length, config.model_max_length or DEFAULT_CONTEXT_LENGTH)
    fraction = 0.0 if calibration.text is None and calibration.token_ids is None else calibration.built_in_fraction
    rows = min(round(calibration.sequences * (1 - fraction)), len(ids) // length)
    if rows * length < MIN_TOKENS:
        raise DatasetError(
            f"{source} yields {rows} sequences of {length} tokens, but calibration needs at least {MIN_TOKENS} tokens: "
            "use a longer text or more sequences"
        )
    if min(ids) < 0 or max(ids) >= config.vocab_size:
        raise DatasetError(
            f"{source} has token ids from {min(ids)} to {max(ids)}, but the model has only {config.vocab_size} "
            "embeddings: use the tokenizer that belongs to these weights"
        )
    chosen = _choose_rows(ids, rows, length, calibration.seed)
    if (kinds := len(chosen.unique())) < MIN_DISTINCT_TOKENS:
        raise DatasetError(
            f"{source} has only {kinds} distinct tokens, but calibration needs at least {MIN_DISTINCT_TOKENS}: "
            "use natural-language text"
        )
    added = min(round(rows * fraction / (1 - fraction)), calibration.sequences - rows)
    if added == 0:
        return chosen
    built_in = encode_plain_text(load_tokenizer(checkpoint), load_calibration_text())
    return torch.cat([chosen, _choose_rows(built_in, min(added, len(built_in) // length), length, calibration.seed)])


def _choose_rows(ids: Sequence[int], rows: int, length: int, seed: int) -> Tensor:
    """Choose `rows` rows of `length` tokens at random; return them in text order, [rows, length]."""
    choice = torch.randperm(len(ids) // length, generator=torch.Generator().manual_seed(seed))[:rows]
    return torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)[choice.sort().values]


def _read_token_ids(checkpoint: Path, calibration: Calibration) -> tuple[str, list[int]]:
    """Return a name for error messages and the concatenated token ids."""
    if calibration.token_ids is not None:
        return "the calibration data", list(chain.from_iterable(calibration.token_ids))
    if calibration.text is None:
        return "the built-in text", encode_plain_text(load_tokenizer(checkpoint), load_calibration_text())
    text = Path(calibration.text)
    return text.name, encode_plain_text(load_tokenizer(checkpoint), read_text_file(text))
