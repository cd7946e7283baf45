"""Checks training data in the formats that fine-tunes read, as far as possible without a tokenizer.

Workers read the same files with `baichuan_core.finetuning.formats`; a test compares which files both accept.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from jobs.inputs.lines import CHUNK_CHARACTERS, InputError, read_array, read_beginning, read_lines
from jobs.inputs.parameters import LONE_SURROGATE, has_lone_surrogate

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
UNSUPPORTED_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".csv", ".tsv", ".xls", ".xlsx", ".parquet"), "is a table; convert it to JSON lines"),
    **dict.fromkeys((".pdf", ".doc", ".docx"), "is a document; convert it to plain text or JSON lines"),
}
UNSUPPORTED_SIGNATURES = {
    b"PK\x03\x04": "is a ZIP archive or a workbook; unpack it, or convert it to JSON",
    b"version https://git-lfs": "is a git-LFS pointer, not the file itself; run `git lfs pull` in its repository",
    b"<!doctype html": "is a web page; download the file that the page shows",
    b"<html": "is a web page; download the file that the page shows",
    b"%PDF": "is a PDF document; convert it to plain text or JSON lines",
}
CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")  # except tabs, line breaks and form feeds
PLAIN_TEXT_HINT = "to train on plain text, give the file a name that ends in .txt"
ROLES = {"from": ("human", "user", "gpt", "assistant", "system"), "role": ("user", "assistant", "system")}
ANSWERING_ROLES = ("gpt", "assistant")
# For each format, the key that identifies it and all keys that an example may have.
KEYS_BY_FORMAT: Mapping[str, tuple[str, ...]] = {
    "conversations": ("id", "conversations", "system"),
    "messages": ("id", "messages"),
    "instruction": ("id", "instruction", "input", "output", "system", "history"),
    "text": ("id", "text"),
}
ANSWERS_BY_FORMAT: Mapping[str, str] = {
    "conversations": "a 'gpt' turn with text",
    "messages": "an 'assistant' turn with text",
    "instruction": "an 'output' with text",
    "text": "a 'text' that is not empty",
}


def check_training_data(path: Path, filename: str | None = None) -> None:
    """Check every example of a training file.

    Args:
        path: The file.
        filename: Its name, if it is stored under a different one; the extension says whether it may be plain text.

    Raises:
        InputError: The file has an unsupported format or no examples, no example has an answer, or an example is
            malformed.
    """
    suffix = PurePath(path.name if filename is None else filename).suffix.lower()
    if suffix in UNSUPPORTED_SUFFIXES:
        raise InputError(f"the file {UNSUPPORTED_SUFFIXES[suffix]}")
    beginning = read_beginning(path)
    for other, message in UNSUPPORTED_SIGNATURES.items():
        if beginning.lower().startswith(other.lower()):
            raise InputError(f"the file {message}")
    if not beginning:
        raise InputError("the file contains no examples; add at least one conversation")
    if beginning[:1] in (b"[", b"{"):
        _check_examples(read_array(path) if beginning[:1] == b"[" else read_lines(path))
        return
    _check_text_file(path)
    if suffix in JSON_SUFFIXES:
        try:
            _check_examples(read_lines(path))  # fails at the first line, which is not an object
        except InputError as error:
            raise InputError(f"{error.message}; {PLAIN_TEXT_HINT}", line=error.line) from None


def _check_text_file(path: Path) -> None:
    line = 1
    try:
        with path.open(encoding="utf-8-sig") as file:
            while text := file.read(CHUNK_CHARACTERS):
                if found := CONTROL_CHARACTER.search(text):
                    raise InputError(
                        f"contains the control character U+{ord(found[0]):04X}; remove it, or convert the file to text",
                        line=line + text.count("\n", 0, found.start()),
                    )
                line += text.count("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"the file is not UTF-8 ({error.reason}); save it as UTF-8") from None


def _check_examples(items: Iterable[tuple[int, Any]]) -> None:
    first: str | None = None
    has_answer = False
    for line, item in items:
        try:
            first = _check_format(item, first)
            has_answer |= _CHECKS_BY_FORMAT[first](item)
        except InputError as error:
            raise InputError(error.message, line=line) from None
    if first is None:
        raise InputError("the file contains no examples; add at least one conversation")
    if not has_answer:
        raise InputError(f"no example has an answer to learn; add {ANSWERS_BY_FORMAT[first]} to at least one example")


def _check_format(item: Any, first: str | None) -> str:
    """Check an example's keys and return the one that identifies its format; `first` is that of the first example."""
    if not isinstance(item, dict):
        raise InputError("is not an object; write an example with 'messages' or 'conversations'")
    found = next((key for key in KEYS_BY_FORMAT if key in item), None)
    if found is None:
        raise InputError(f"has none of the keys {', '.join(KEYS_BY_FORMAT)}; write an example with one of them")
    if first not in (None, found):
        raise InputError(f"has {found!r}, but the first example has {first!r}; use one format per file")
    _reject_unknown_keys(item, KEYS_BY_FORMAT[found], "")
    return found


def _check_turns(item: Mapping[str, Any], field: str, role: str, content: str) -> bool:
    """Check the turns of an example; return whether one of them is an answer with text."""
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
    return any(turn[content] for turn in turns if turn[role] in ANSWERING_ROLES)


def _check_system(item: Mapping[str, Any]) -> None:
    if item.get("system") is not None:
        _require_text(item["system"], "has a 'system'")


def _check_sharegpt(item: Mapping[str, Any]) -> bool:
    _check_system(item)
    return _check_turns(item, "conversations", "from", "value")


def _check_alpaca(item: Mapping[str, Any]) -> bool:
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
    return bool(item.get("output")) or any(answer for _, answer in history)


def _check_text(item: Mapping[str, Any]) -> bool:
    _require_text(item["text"], "has a 'text'")
    return bool(item["text"])


# Each check returns whether the example has an answer to learn.
_CHECKS_BY_FORMAT: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "conversations": _check_sharegpt,
    "messages": lambda item: _check_turns(item, "messages", "role", "content"),
    "instruction": _check_alpaca,
    "text": _check_text,
}


def _require_text(value: Any, subject: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{subject} that is not a string; write it as a JSON string")
    if has_lone_surrogate(value):
        raise InputError(f"{subject} that contains {LONE_SURROGATE}; write the whole character")


def _reject_unknown_keys(item: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in item:
        if key not in known:
            raise InputError(f"{where}has the unknown key {key!r}; remove it, or use one of {', '.join(known)}")
