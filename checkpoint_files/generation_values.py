"""Reads and checks `generation_config.json`, the recommended generation settings of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import FileError
from .field_rules import (
    SWITCH,
    TOKEN,
    TOKENS,
    Rule,
    check_fields,
    is_integer_or_list,
    is_number,
    number_from,
    show,
    whole_number_from,
)
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
MAX_TEMPERATURE, MAX_PENALTY, MAX_COUNT = 100, 100, 2**31 - 1
RULES = {
    "user_token_id": TOKEN,
    "assistant_token_id": TOKEN,
    "bos_token_id": TOKENS,
    "eos_token_id": TOKENS,
    "pad_token_id": Rule(is_integer_or_list, "an integer or a list of integers"),
    "max_new_tokens": whole_number_from(1, MAX_COUNT),
    "top_k": whole_number_from(0, MAX_COUNT, hint="0 for all tokens"),
    "temperature": number_from(0, MAX_TEMPERATURE),
    "top_p": number_from(0, 1),
    "repetition_penalty": Rule(
        lambda value: is_number(value) and 0 < value <= MAX_PENALTY, f"a number above 0, at most {MAX_PENALTY}"
    ),
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


def check_chat_tokens(fields: Mapping[str, Any], vocab_size: int, file: Path) -> None:
    """Check that a model has the tokens that open the turns of a chat.

    Args:
        fields: Content of `generation_config.json`.
        vocab_size: Number of tokens of the model.
        file: The file that the fields were read from.

    Raises:
        FileError: The model lacks one of these tokens.
    """
    for name in ("user_token_id", "assistant_token_id"):
        if fields.get(name, 0) >= vocab_size:
            raise FileError(
                f"{file} has the {name} {show(fields[name])}, but the model has only the tokens 0 to {vocab_size - 1}: "
                "correct it, or remove the field"
            )


def check_end_tokens(fields: Mapping[str, Any], vocab_size: int, file: Path) -> None:
    """Check that a model can generate at least one of the tokens that end an answer.

    Args:
        fields: Content of a file with `eos_token_id`.
        vocab_size: Number of tokens of the model.
        file: The file that the fields were read from.

    Raises:
        FileError: The model can generate none of them, so every answer would run to the length limit.
    """
    ends = fields.get("eos_token_id")
    if ends is not None and not any(0 <= end < vocab_size for end in (ends if isinstance(ends, list) else [ends])):
        raise FileError(
            f"{file} has the eos_token_id {show(ends)}, but the model has only the tokens 0 to {vocab_size - 1}: "
            "correct it (the published models have 2)"
        )
