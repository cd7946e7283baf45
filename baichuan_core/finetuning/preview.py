"""A look at training data as the model will read it, before a device is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from baichuan_core.checkpoint import load_tokenizer, read_config
from baichuan_core.finetuning.data import IGNORED_LABEL, EncodedExample, encode_example, encode_training_data
from baichuan_core.finetuning.formats import DataFormat, read_training_data
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat

UNLIMITED = 2**62
LENGTH_BOUNDS = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096, UNLIMITED)


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token of an example: its id, its piece of text, and whether the model learns to predict it."""

    id: int
    piece: str
    trained: bool


@dataclass(frozen=True, slots=True)
class DatasetPreview:
    """What a data set will teach.

    Attributes:
        format: Of the file.
        examples: First examples as tokens, cut to the most tokens of an example.
        count: Examples that can be learned from.
        tokens: Tokens of these examples.
        trained_tokens: Those that the model learns to predict.
        dropped: Examples without an answer inside the window.
        truncated: Examples whose end is cut off.
        lengths: Number of examples up to each length in tokens, uncut: ``(shortest, longest, examples)``; the last
            length has no end.
    """

    format: DataFormat
    examples: list[list[PreviewToken]]
    count: int
    tokens: int
    trained_tokens: int
    dropped: int
    truncated: int
    lengths: list[tuple[int, int | None, int]]


def preview_dataset(
    checkpoint: Path | str, training_data: Path | str, *, max_length: int = 512, examples: int = 3
) -> DatasetPreview:
    """Encode a data set with the tokenizer of a checkpoint, without loading the model.

    Raises:
        DatasetError: The data is malformed or teaches nothing; the message names the line.
        CheckpointError: `config.json` is missing or damaged.
        TokenizerError: The checkpoint has no tokenizer.
    """
    checkpoint = Path(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    chat_format = ChatFormat.of(checkpoint, read_config(checkpoint))
    data = read_training_data(Path(training_data))
    encoded = encode_training_data(
        tokenizer, data.examples, max_length=max_length, chat_format=chat_format, data_format=data.format
    )
    uncut = [
        len(example.input_ids)
        for conversation in data.examples
        for example in encode_example(tokenizer, conversation, max_length=UNLIMITED, chat_format=chat_format)
    ]
    return DatasetPreview(
        format=data.format,
        examples=[_tokens(tokenizer, example) for example in encoded.examples[:examples]],
        count=len(encoded.examples),
        tokens=encoded.tokens,
        trained_tokens=sum(sum(_trained(example)) for example in encoded.examples),
        dropped=encoded.dropped,
        truncated=encoded.truncated,
        lengths=_histogram(uncut),
    )


def _trained(example: EncodedExample) -> list[bool]:
    """Whether each token is predicted; nothing predicts the first one."""
    return [False, *(label != IGNORED_LABEL for label in example.labels[1:])]


def _tokens(tokenizer: BaichuanTokenizer, example: EncodedExample) -> list[PreviewToken]:
    pieces = tokenizer.convert_ids_to_tokens(example.input_ids)
    trained = _trained(example)
    return [PreviewToken(*each) for each in zip(example.input_ids, pieces, trained, strict=True)]


def _histogram(lengths: Sequence[int]) -> list[tuple[int, int | None, int]]:
    return [
        (low + 1, None if high == UNLIMITED else high, count)
        for low, high in pairwise(LENGTH_BOUNDS)
        if (count := sum(low < length <= high for length in lengths))
    ]
