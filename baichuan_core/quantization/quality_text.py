"""The text on which the models of a quality report are measured."""

from dataclasses import dataclass
from pathlib import Path

from baichuan_core.checkpoint import load_tokenizer, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.errors import DatasetError, TokenizerError
from baichuan_core.likelihood import Window, encode_plain_text, load_held_out_text, split_into_windows
from baichuan_core.text_file import read_text_file

WINDOW_TOKENS = 512
# Eight windows determine the KL divergence to two significant digits, in a few minutes for a 7B model on a CPU.
MAX_TOKENS = 4096
MAX_CHARACTERS = 32 * MAX_TOKENS  # far more characters than MAX_TOKENS tokens need, but still fast to encode
MIN_TOKENS = 64
BUILT_IN_TEXT_NAME = "built-in"


@dataclass(frozen=True, slots=True)
class QualityText:
    """A tokenized text, split into windows, or the reason why there is none.

    Attributes:
        source: "built-in", or the name of the file.
        windows: Windows to score; empty if `missing` is set.
        missing: Why the built-in text cannot be scored, or None.
    """

    source: str
    windows: list[Window]
    missing: str | None = None


def read_quality_text(checkpoint: Path, text: Path | None) -> QualityText:
    """Read the first 4096 tokens of a file, or of the built-in text, in windows of 512.

    A checkpoint without a tokenizer can still be quantized, so a missing tokenizer is an error only if the caller
    passes a text.

    Raises:
        DatasetError: The file is not UTF-8 text, or has fewer than 64 tokens or only one distinct token.
        TokenizerError: A file is given and the checkpoint has no tokenizer.
    """
    try:
        tokenizer = load_tokenizer(checkpoint)
    except TokenizerError as error:
        if text is not None:
            raise
        return QualityText(BUILT_IN_TEXT_NAME, [], str(error))
    content = load_held_out_text() if text is None else read_text_file(text)
    ids = encode_plain_text(tokenizer, content[:MAX_CHARACTERS])[:MAX_TOKENS]
    source = BUILT_IN_TEXT_NAME if text is None else text.name
    if len(ids) < MIN_TOKENS or len(set(ids)) == 1:
        kinds = "only one distinct token" if len(set(ids)) == 1 else f"only {len(ids)} tokens"
        raise DatasetError(f"{source} has {kinds}: use natural-language text with at least {MIN_TOKENS} tokens")
    length = min(WINDOW_TOKENS, read_config(checkpoint).model_max_length or DEFAULT_CONTEXT_LENGTH)
    return QualityText(source, split_into_windows(ids, length=length, stride=length))
