"""Encodes training data as the `input_ids` and `labels` of each example."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from baichuan_core.errors import DatasetError, PromptError, TokenizerError
from baichuan_core.finetuning.example_store import (
    IGNORED_LABEL,
    EncodedExample,
    ExampleStore,
    StoredExamples,
)
from baichuan_core.finetuning.formats import Conversation, ConversationFile
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat, Message, encode_training_turns

NEWLINE = "\n"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded examples, and counts of those that were dropped or truncated.

    Attributes:
        examples: Encoded examples, in the order of the file.
        dropped: Number of examples that were dropped because `max_length` cuts off every answer.
        truncated: Number of examples whose end was cut off, so the model does not learn to end their answers.
        format: Format of the file, or the formats of several files.
    """

    examples: StoredExamples
    dropped: int
    truncated: int
    format: str = "published"

    @property
    def tokens(self) -> int:
        """Total number of tokens in all examples."""
        return int(self.examples.lengths.sum())

    @property
    def max_example_tokens(self) -> int:
        """Number of tokens in the longest example."""
        return int(self.examples.lengths.max())


def load_training_data(
    tokenizer: BaichuanTokenizer,
    path: Path,
    *,
    max_length: int,
    chat_format: ChatFormat | None = None,
    store: ExampleStore | None = None,
) -> TrainingData:
    """Read and encode a data set in any format, example by example.

    Args:
        tokenizer: The model's tokenizer.
        path: The file.
        max_length: Maximum number of tokens of an example; longer ones are truncated.
        chat_format: The model's chat format.
        store: Store to add the encoded examples to; by default a new one.

    Raises:
        DatasetError: The data is malformed, or no example has an answer; the message names the line.
        InsufficientSpaceError: The disk of `store` is full.
    """
    conversations = ConversationFile(path)
    data = encode_training_data(tokenizer, conversations, max_length=max_length, chat_format=chat_format, store=store)
    return replace(data, format=conversations.format or data.format)


def combine_training_data(parts: Sequence[TrainingData], weights: Sequence[float], seed: int) -> TrainingData:
    """Concatenate data sets in one store, repeating or sampling the examples of each according to its weight.

    A weight of 2 uses every example twice; a weight of 0.5 uses half of them, sampled with `seed`.

    Raises:
        DatasetError: A weight is not above 0.
    """
    chosen = []
    for part, weight in zip(parts, weights, strict=True):
        if not 0 < weight < math.inf:
            raise DatasetError(f"the training data has the weight {weight}; a weight must be a finite number above 0")
        whole, rest = divmod(weight, 1)
        indices = part.examples.indices
        count = round(rest * len(indices))
        chosen += [indices] * int(whole) + [np.random.default_rng(seed).permutation(indices)[:count]]
    combined = np.concatenate(chosen)
    if not len(combined):
        raise DatasetError("no examples are left after the training data is weighted; increase a weight")
    formats = ", ".join(sorted({part.format for part in parts}))
    return TrainingData(
        StoredExamples(parts[0].examples.store, combined),
        sum(part.dropped for part in parts),
        sum(part.truncated for part in parts),
        formats,
    )


def split_training_data(data: TrainingData, fraction: float, seed: int) -> tuple[TrainingData, TrainingData]:
    """Split off a random fraction of the examples, at least one, chosen with `seed`.

    Returns:
        The examples to train on, and those to evaluate on.

    Raises:
        DatasetError: No example would be left to train on.
    """
    total = len(data.examples)
    count = max(1, round(total * fraction))
    if count >= total:
        raise DatasetError(
            f"validation_split {fraction} of {total} examples leaves none to train on; use a smaller fraction"
        )
    is_held_back = np.zeros(total, bool)
    is_held_back[np.random.default_rng(seed).permutation(total)[:count]] = True
    store, indices = data.examples.store, data.examples.indices
    return (
        replace(data, examples=StoredExamples(store, indices[~is_held_back])),
        TrainingData(StoredExamples(store, indices[is_held_back]), 0, 0, data.format),
    )


def encode_training_data(
    tokenizer: BaichuanTokenizer,
    conversations: Iterable[Conversation],
    *,
    max_length: int,
    chat_format: ChatFormat | None = None,
    store: ExampleStore | None = None,
) -> TrainingData:
    """Encode the whole data set and drop examples without an answer within `max_length`.

    Raises:
        DatasetError: A text cannot be encoded, or no example is left.
    """
    store = ExampleStore() if store is None else store
    start, dropped, truncated = len(store), 0, 0
    for conversation in conversations:
        for example in encode_example(tokenizer, conversation, max_length=max_length, chat_format=chat_format):
            if example.has_answer:
                store.append(example)
                truncated += example.is_truncated
            else:
                dropped += 1
    if len(store) == start:
        raise DatasetError(
            f"none of the {dropped} examples has an answer within max_length {max_length};"
            " shorten the questions, raise max_length, or add answers ('gpt' or 'assistant' turns)"
        )
    return TrainingData(StoredExamples(store, np.arange(start, len(store))), dropped, truncated)


def encode_example(
    tokenizer: BaichuanTokenizer,
    conversation: Conversation,
    *,
    max_length: int,
    chat_format: ChatFormat | None = None,
) -> Iterator[EncodedExample]:
    """Yield the encoded conversation or, for plain text, chunks of at most `max_length` tokens.

    Raises:
        DatasetError: A text cannot be encoded.
    """
    if conversation.text is None:
        yield encode_conversation(tokenizer, conversation, max_length=max_length, chat_format=chat_format)
        return
    ids = chain(_encode_chunks(tokenizer, conversation.text, conversation.place), [tokenizer.eos_token_id])
    while window := list(islice(ids, max_length)):
        yield EncodedExample(window, window, has_answer=len(window) > 1)


def encode_conversation(
    tokenizer: BaichuanTokenizer,
    conversation: Conversation,
    *,
    max_length: int,
    chat_format: ChatFormat | None = None,
) -> EncodedExample:
    """Encode a conversation with the labels of the published `fine-tune.py`: only answers and EOS are learned.

    A system text comes first, without a marker or labels, as in the published chat prompt. A user turn consists of its
    opening id and its text, with the labels eos, -100, ...; an answer consists of its opening id and its text, with the
    labels -100, text. The example ends with eos and is truncated to `max_length`. The first Baichuan-13B-Chat learns
    eos at the end of each answer, because its prompts have it there. With a checkpoint's own chat template, answers are
    learned as the template renders them.

    Example:
        user "hi" and assistant "yes", where <user> and <assistant> are opening ids:
        input_ids  <user>  hi    <assistant>  yes  eos
        labels     eos     -100  -100         yes  eos
        Labels are shifted by the model: each label is predicted from the tokens before it.

    Raises:
        DatasetError: A text cannot be encoded, or the model does not support system messages.
    """
    chat_format = chat_format or ChatFormat()
    if chat_format.style != "baichuan2":
        return _encode_as_chat_prompt(tokenizer, conversation, chat_format, max_length)
    eos = tokenizer.eos_token_id
    input_ids: list[int] = []
    labels: list[int] = []
    if conversation.system is not None:
        input_ids += _encode_text(tokenizer, conversation.system, conversation.place)
        labels += [IGNORED_LABEL] * len(input_ids)
    has_answer = False
    for is_user, text in conversation.turns:
        ids = _encode_text(tokenizer, text, conversation.place)
        has_answer |= not is_user and bool(ids) and len(input_ids) + 1 < max_length
        input_ids += [chat_format.user_token_id if is_user else chat_format.assistant_token_id, *ids]
        labels += [eos, *[IGNORED_LABEL] * len(ids)] if is_user else [IGNORED_LABEL, *ids]
    input_ids.append(eos)
    labels.append(eos)
    return _truncate_example(input_ids, labels, max_length, has_answer=has_answer)


def _truncate_example(input_ids: list[int], labels: list[int], max_length: int, *, has_answer: bool) -> EncodedExample:
    length = len(input_ids)
    uncut_length = length if length > max_length else None
    return EncodedExample(input_ids[:max_length], labels[:max_length], uncut_length, has_answer)


def _encode_as_chat_prompt(
    tokenizer: BaichuanTokenizer, conversation: Conversation, chat_format: ChatFormat, max_length: int
) -> EncodedExample:
    """Encode a conversation exactly as in the model's chat prompts, for chat formats other than Baichuan 2's."""
    system = [] if conversation.system is None else [Message(role="system", content=conversation.system)]
    turns = [Message(role="user" if is_user else "assistant", content=text) for is_user, text in conversation.turns]
    try:
        parts = encode_training_turns(tokenizer, [*system, *turns], chat_format)
    except (TokenizerError, PromptError) as error:
        raise DatasetError(f"{conversation.place}: {error}") from error
    input_ids = [token_id for _, ids in parts for token_id in ids]
    labels = [token_id if is_answer else IGNORED_LABEL for is_answer, ids in parts for token_id in ids]
    has_answer = any(label != IGNORED_LABEL for label in labels[1:max_length])
    return _truncate_example(input_ids, labels, max_length, has_answer=has_answer)


def _encode_chunks(tokenizer: BaichuanTokenizer, chunks: Iterable[str], place: str) -> Iterator[int]:
    """Encode a text chunk by chunk, and yield its token ids.

    The tokenizer puts a space token before everything it encodes; only the first chunk keeps that token.
    """
    newline = _encode_text(tokenizer, NEWLINE, place)[-1]
    for number, chunk in enumerate(chunks):
        ids = _encode_text(tokenizer, chunk, place)
        if number and chunk.startswith(NEWLINE) and newline in ids:
            ids = ids[ids.index(newline) :]
        yield from ids


def _encode_text(tokenizer: BaichuanTokenizer, text: str, place: str) -> list[int]:
    try:
        return tokenizer.encode_text(text)
    except TokenizerError as error:
        raise DatasetError(f"{place}: {error}") from error
