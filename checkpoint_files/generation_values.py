"""Read and check `generation_config.json`, the recommended generation settings of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import FileError
from .field_rules import SWITCH, TOKENS, Rule, check_fields, is_number, is_positive, is_whole, show
from .json_files import as_whole_numbers, read_object

FILE = "generation_config.json"
# Settings that some tools write as floats.
WHOLE_NUMBERS = (
    "user_token_id",
    "assistant_token_id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "max_new_tokens",
    "top_k",
)
_ONE_TOKEN = Rule(is_whole, "a whole number")
RULES = {
    "user_token_id": _ONE_TOKEN,
    "assistant_token_id": _ONE_TOKEN,
    "bos_token_id": TOKENS,
    "eos_token_id": TOKENS,
    "pad_token_id": TOKENS,
    "max_new_tokens": Rule(lambda value: is_whole(value) and value > 0, "a whole number above 0"),
    "top_k": Rule(lambda value: is_whole(value) and value >= 0, "a whole number, 0 for all tokens"),
    "temperature": Rule(lambda value: is_number(value) and value >= 0, "a number of at least 0"),
    "top_p": Rule(lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "repetition_penalty": Rule(is_positive, "a number above 0"),
    "do_sample": SWITCH,
}


def read_generation_config(checkpoint: Path) -> dict[str, Any]:
    """Return the fields of `generation_config.json` that are not null; an empty dictionary if the file is missing.

    Raises:
        FileError: The file is damaged, or a field has an invalid value.
    """
    file = checkpoint / FILE
    if not file.exists():
        return {}
    fields = as_whole_numbers(read_object(file), WHOLE_NUMBERS)
    try:
        check_fields(fields, RULES)
    except FileError as fault:
        raise FileError(f"{file} cannot be used: {fault}, or remove the field") from None
    return {name: value for name, value in fields.items() if value is not None}


def check_end_tokens(fields: Mapping[str, Any], vocab_size: int, file: Path) -> None:
    """Check that a model can generate at least one of the tokens that end an answer.

    Args:
        fields: Content of a file with `eos_token_id`.
        vocab_size: Number of tokens of the model.
        file: The file.

    Raises:
        FileError: It cannot, so every answer would run to the length limit.
    """
    ends = fields.get("eos_token_id")
    if ends is not None and not any(0 <= end < vocab_size for end in (ends if isinstance(ends, list) else [ends])):
        raise FileError(
            f"{file} has the eos_token_id {show(ends)}, but the model has only the tokens 0 to {vocab_size - 1}: "
            "correct it (the published models have 2)"
        )
