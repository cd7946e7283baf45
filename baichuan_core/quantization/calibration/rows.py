"""What calibration looks at: rows of token ids from a text, a file, or ids that the caller has."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.errors import DatasetError
from baichuan_core.likelihood import calibration_text, encode_plain
from baichuan_core.text_file import read_text_file

FEWEST_TOKENS = 2048  # with fewer, codes are fitted to what is said instead of to how the model computes
FEWEST_KINDS = 16


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibrated quantization looks at.

    The nearer it is to what the model will be used for, the better; a text and its order decide every byte.

    Attributes:
        text: A UTF-8 text file; the built-in text, Chinese and English, if neither this nor `token_ids` is given.
        token_ids: Token ids of any texts instead, e.g. the `input_ids` of fine-tuning examples.
        sequences: How many rows of `length` tokens at most; fewer if the text is shorter.
        length: Tokens of a row, at most what the model's window holds.
        seed: Of the choice of rows from a longer text.
    """

    text: Path | str | None = None
    token_ids: Sequence[Sequence[int]] | None = None
    sequences: int = 32
    length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.text is not None and self.token_ids is not None:
            raise ValueError("text and token_ids are both given: give one of them")
        if self.sequences < 1 or self.length < 2:  # noqa: PLR2004
            raise ValueError(f"{self.sequences} sequences of {self.length} tokens: give at least 1 of 2")


def calibration_rows(checkpoint: Path, config: BaichuanConfig, calibration: Calibration) -> Tensor:
    """Token ids of the rows, int64 [rows, length].

    Raises:
        DatasetError: The text is too short or too monotonous, cannot be read, or has ids that the model has not.
        TokenizerError: A text is to be read and the checkpoint has no tokenizer.
    """
    source, ids = _token_ids(checkpoint, calibration)
    length = min(calibration.length, config.model_max_length or DEFAULT_CONTEXT_LENGTH)
    rows = min(calibration.sequences, len(ids) // length)
    if rows * length < FEWEST_TOKENS:
        raise DatasetError(
            f"{source} gives {rows} sequences of {length} tokens, and calibration needs {FEWEST_TOKENS} tokens or "
            "more: give a longer text, or ask for more sequences"
        )
    if min(ids) < 0 or max(ids) >= config.vocab_size:
        raise DatasetError(
            f"{source} has token ids from {min(ids)} to {max(ids)} and the model only {config.vocab_size} embeddings: "
            "use the tokenizer that belongs to these weights"
        )
    choice = torch.randperm(len(ids) // length, generator=torch.Generator().manual_seed(calibration.seed))[:rows]
    chosen = torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)[choice.sort().values]
    if (kinds := len(chosen.unique())) < FEWEST_KINDS:
        raise DatasetError(f"{source} has {kinds} different tokens: give a text that people would write")
    return chosen


def _token_ids(checkpoint: Path, calibration: Calibration) -> tuple[str, list[int]]:
    """A name for messages, and all ids one after the other."""
    if calibration.token_ids is not None:
        return "the calibration data", list(chain.from_iterable(calibration.token_ids))
    if calibration.text is None:
        return "the built-in text", encode_plain(load_tokenizer(checkpoint), calibration_text())
    text = Path(calibration.text)
    return text.name, encode_plain(load_tokenizer(checkpoint), read_text_file(text))
