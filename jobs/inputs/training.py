"""Checks training data in the formats that fine-tunes read, as far as possible without a tokenizer.

Workers read the same files with `baichuan_core.finetuning.formats`; a test compares which files both accept.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs.inputs.lines import CHUNK_CHARACTERS, InputError, read_array, read_beginning, read_lines

UNSUPPORTED_SIGNATURES = {
    b"PK\x03\x04": "is a ZIP archive or a workbook; unpack it, or convert it to JSON",
    b"version https://git-lfs": "is a git-LFS pointer, not the file itself; run `git lfs pull` in its repository",
    b"<!doctype html": "is a web page; download the file that the page shows",
    b"<html": "is a web page; download the file that the page shows",
}
ROLES = {"from": ("human", "user", "gpt", "assistant", "system"), "role": ("user", "assistant", "system")}
# For each format, the key that identifies it and all keys that an example may have.
KEYS_BY_FORMAT: Mapping[str, tuple[str, ...]] = {
    "conversations": ("id", "conversations", "system"),
    "messages": ("id", "messages"),
    "instruction": ("id", "instruction", "input", "output", "system", "history"),
    "text": ("id", "text"),
}


def check_training_data(path: Path) -> None:
    """Check every example of a training file.

    Raises:
        InputError: The file has an unsupported format or no examples, or an example is malformed.
    """
    beginning = read_beginning(path)
    for other, message in UNSUPPORTED_SIGNATURES.items():
        if beginning.lower().startswith(other.lower()):
            raise InputError(f"the file {message}")
    if beginning[:1] not in (b"[", b"{"):
        _check_text_file(path, is_empty=not beginning)
        return
    first: str | None = None
    for line, item in read_array(path) if beginning[:1] == b"[" else read_lines(path):
        try:
            first = _check_example(item, first)
        except InputError as error:
            raise InputError(error.message, line=line) from None
    if first is None:
        raise InputError("the file contains no examples; add at least one conversation")


def _check_text_file(path: Path, *, is_empty: bool) -> None:
    if is_empty:
        raise InputError("the file contains no examples; add at least one conversation")
    try:
        with path.open(encoding="utf-8-sig") as file:
            while file.read(CHUNK_CHARACTERS):
                pass
    except UnicodeDecodeError as error:
        raise InputError(f"the file is not UTF-8 ({error.reason}); save it as UTF-8") from None


def _check_example(item: Any, first: str | None) -> str:
    """Check an example and return the key that identifies its format; `first` is the key of the first example."""
    if not isinstance(item, dict):
        raise InputError("is not an object; write an example with 'messages' or 'conversations'")
    found = next((key for key in KEYS_BY_FORMAT if key in item), None)
    if found is None:
        raise InputError(f"has none of the keys {', '.join(KEYS_BY_FORMAT)}; write an example with one of them")
    if first not in (None, found):
        raise InputError(f"has {found!r}, but the first example has {first!r}; use one format per file")
    _reject_unknown_keys(item, KEYS_BY_FORMAT[found], "")
    _CHECKS_BY_FORMAT[found](item)
    return found


def _check_turns(item: Mapping[str, Any], field: str, role: str, content: str) -> None:
    turns = item[field]
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{field!r} must be a list of turns with {role!r} and {content!r}")
    for number, turn in enumerate(turns, start=1):
        where = f"turn {number} "
        if not isinstance(turn, dict) or role not in turn or content not in turn:
            raise InputError(f"{where}needs both {role!r} and {content!r}")
        _reject_unknown_keys(turn, (role, content), where)
        if turn[role] not in ROLES[role]:
            raise InputError(f"{where}has the unknown role {turn[role]!r}; use one of {', '.join(ROLES[role])}")
        if turn[role] == "system" and number > 1:
            raise InputError(f"{where}is a system message; only the first turn may be one")
        _require_text(turn[content], f"{where}has a {content!r}")
    if turns[0][role] == "system" and item.get("system") is not None:
        raise InputError("has both a system message and the key 'system'; leave one out")


def _check_system(item: Mapping[str, Any]) -> None:
    if item.get("system") is not None:
        _require_text(item["system"], "has a 'system'")


def _check_sharegpt(item: Mapping[str, Any]) -> None:
    _check_system(item)
    _check_turns(item, "conversations", "from", "value")


def _check_alpaca(item: Mapping[str, Any]) -> None:
    _check_system(item)
    history = item.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):  # noqa: PLR2004
        raise InputError("has a malformed 'history'; write a list of [question, answer] pairs")
    for text in (text for pair in history for text in pair):
        _require_text(text, "has an entry in 'history'")
    _require_text(item["instruction"], "has an 'instruction'")
    _require_text(item.get("input") or "", "has an 'input'")
    if item.get("output") is not None:
        _require_text(item["output"], "has an 'output'")


_CHECKS_BY_FORMAT: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "conversations": _check_sharegpt,
    "messages": lambda item: _check_turns(item, "messages", "role", "content"),
    "instruction": _check_alpaca,
    "text": lambda item: _require_text(item["text"], "has a 'text'"),
}


def _require_text(value: Any, subject: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{subject} that is not a string; write it as a JSON string")


def _reject_unknown_keys(item: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in item:
        if key not in known:
            raise InputError(f"{where}has the unknown key {key!r}; remove it, or use one of {', '.join(known)}")
