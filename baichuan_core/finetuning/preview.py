"""Previews training data as the model will read it, without loading the model."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from baichuan_core.checkpoint import load_tokenizer, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.errors import DatasetError
from baichuan_core.finetuning.data import encode_example
from baichuan_core.finetuning.example_store import IGNORED_LABEL, EncodedExample
from baichuan_core.finetuning.formats import ConversationFile
from baichuan_core.tokenizer import BaichuanTokenizer, ChatStyle, choose_chat_format, read_generation_settings

UNBOUNDED_LENGTH = 2**62
LENGTH_BIN_BOUNDS = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096, UNBOUNDED_LENGTH)


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token of an example: its id, its text, and whether the model learns to predict it."""

    id: int
    piece: str
    trained: bool


@dataclass(frozen=True, slots=True)
class DatasetPreview:
    """A preview of how a fine-tuning run encodes a data set.

    Attributes:
        format: Format of the file.
        chat_format: The model's chat format; None for plain text.
        examples: The first examples as tokens, truncated to `max_length`.
        count: Number of examples to train on.
        tokens: Total number of tokens of these examples.
        trained_tokens: Number of these tokens that the model learns to predict.
        dropped: Number of examples without an answer within `max_length`.
        truncated: Number of examples whose end is cut off.
        lengths: Histogram of the lengths of all examples in tokens before truncation, including dropped ones:
            `(shortest, longest, examples)`; `longest` is None in the last bin.
        complete: Whether the whole file was read.
    """

    format: str
    chat_format: ChatStyle | None
    examples: list[list[PreviewToken]]
    count: int
    tokens: int
    trained_tokens: int
    dropped: int
    truncated: int
    lengths: list[tuple[int, int | None, int]]
    complete: bool


def preview_dataset(
    checkpoint: Path | str,
    training_data: Path | str,
    *,
    max_length: int = 512,
    examples: int = 3,
    max_examples: int | None = None,
) -> DatasetPreview:
    """Encode a data set as a fine-tuning run of this checkpoint would, without loading the model.

    Args:
        checkpoint: Checkpoint whose tokenizer, chat template and context length to use.
        training_data: File of examples in any format.
        max_length: Maximum number of tokens of an example.
        examples: Number of examples to show.
        max_examples: Number of examples after which to stop reading; None reads all.

    Raises:
        DatasetError: The data is malformed, or no example has an answer; the message names the line.
        CheckpointError: `config.json` is missing or damaged.
        TokenizerError: The checkpoint has no tokenizer.
    """
    checkpoint = Path(checkpoint)
    tokenizer, config = load_tokenizer(checkpoint), read_config(checkpoint)
    window = config.model_max_length or DEFAULT_CONTEXT_LENGTH
    if max_length > window:
        raise DatasetError(f"max_length is {max_length}; the model's context length allows at most {window}")
    chat_format = choose_chat_format(tokenizer, config, read_generation_settings(checkpoint))
    counts = _ExampleCounter()
    conversations = ConversationFile(Path(training_data))
    encoded = (
        example
        for conversation in conversations
        for example in encode_example(tokenizer, conversation, max_length=max_length, chat_format=chat_format)
    )
    shown: list[EncodedExample] = []
    complete = True
    for number, example in enumerate(encoded):
        if number == max_examples:
            complete = False
            break
        counts.add(example)
        if example.has_answer and len(shown) < examples:
            shown.append(example)
    if not counts.learned:
        raise DatasetError(
            f"none of the first {counts.dropped} examples has an answer within max_length {max_length}; shorten the"
            " questions, raise max_length, or add answers ('gpt' or 'assistant' turns)"
        )
    return DatasetPreview(
        format=conversations.format or "published",
        chat_format=None if conversations.format == "text" else chat_format.style,
        examples=[_make_tokens(tokenizer, example) for example in shown],
        count=counts.learned,
        tokens=counts.tokens,
        trained_tokens=counts.trained_tokens,
        dropped=counts.dropped,
        truncated=counts.truncated,
        lengths=counts.build_length_histogram(),
        complete=complete,
    )


class _ExampleCounter:
    """Running totals over the examples read so far."""

    def __init__(self) -> None:
        self.learned = self.tokens = self.trained_tokens = self.dropped = self.truncated = 0
        self._by_length = [0] * (len(LENGTH_BIN_BOUNDS) - 1)

    def add(self, example: EncodedExample) -> None:
        """Count one example."""
        length = example.uncut_length or len(example.input_ids)
        self._by_length[int(np.searchsorted(LENGTH_BIN_BOUNDS, length)) - 1] += 1
        if not example.has_answer:
            self.dropped += 1
            return
        self.learned += 1
        self.tokens += len(example.input_ids)
        self.trained_tokens += sum(_make_trained_mask(example))
        self.truncated += example.is_truncated

    def build_length_histogram(self) -> list[tuple[int, int | None, int]]:
        """Return the bins of the length histogram that are not empty."""
        return [
            (low + 1, None if high == UNBOUNDED_LENGTH else high, count)
            for (low, high), count in zip(pairwise(LENGTH_BIN_BOUNDS), self._by_length, strict=True)
            if count
        ]


def _make_trained_mask(example: EncodedExample) -> list[bool]:
    """Return, for each token, whether the model learns to predict it; the first token is never predicted."""
    return [False, *(label != IGNORED_LABEL for label in example.labels[1:])]


def _make_tokens(tokenizer: BaichuanTokenizer, example: EncodedExample) -> list[PreviewToken]:
    pieces = tokenizer.convert_ids_to_tokens(example.input_ids)
    trained = _make_trained_mask(example)
    return [PreviewToken(*each) for each in zip(example.input_ids, pieces, trained, strict=True)]
