"""The text that a quality report is measured on."""

from dataclasses import dataclass
from pathlib import Path

from baichuan_core.checkpoint import load_tokenizer, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.errors import DatasetError, TokenizerError
from baichuan_core.likelihood import Window, encode_plain, held_out_text, text_windows
from baichuan_core.text_file import read_text_file

WINDOW = 512
# Eight windows: enough for a KL to two digits, a few minutes for 7B on a CPU.
MOST_TOKENS = 4096
MOST_CHARACTERS = 32 * MOST_TOKENS  # far above what so many tokens hold, and soon encoded
FEWEST_TOKENS = 64
BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class QualityText:
    """A text in windows of a checkpoint's tokens, or why there is none.

    Attributes:
        source: "built-in", or the name of the file.
        windows: What is scored; empty where `missing` says why.
        missing: Why the built-in text cannot be scored.
    """

    source: str
    windows: list[Window]
    missing: str | None = None


def read_quality_text(checkpoint: Path, text: Path | None) -> QualityText:
    """The first 4096 tokens of a file, or else of the built-in text, in windows of 512.

    A checkpoint without a tokenizer can still be quantized, so that only counts as an error where the caller has
    asked for a text of their own.

    Raises:
        DatasetError: The file is no UTF-8 text, or gives fewer than 64 tokens or only one kind of token.
        TokenizerError: A file is given and the checkpoint has no tokenizer for it.
    """
    try:
        tokenizer = load_tokenizer(checkpoint)
    except TokenizerError as error:
        if text is not None:
            raise
        return QualityText(BUILT_IN, [], str(error))
    content = held_out_text() if text is None else read_text_file(text)
    ids = encode_plain(tokenizer, content[:MOST_CHARACTERS])[:MOST_TOKENS]
    source = BUILT_IN if text is None else text.name
    if len(ids) < FEWEST_TOKENS or len(set(ids)) == 1:
        kinds = "only one kind of token" if len(set(ids)) == 1 else f"{len(ids)} tokens"
        raise DatasetError(f"{source} has {kinds}: give a text of {FEWEST_TOKENS} tokens or more to measure on")
    length = min(WINDOW, read_config(checkpoint).model_max_length or DEFAULT_CONTEXT_LENGTH)
    return QualityText(source, text_windows(ids, length=length, stride=length))
