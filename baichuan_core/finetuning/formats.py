"""Reads training data: Baichuan 2's published format, ShareGPT, OpenAI chat, Alpaca, or text for pre-training."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from baichuan_core.errors import DatasetError
from baichuan_core.finetuning.json_items import read_array_items, read_line_items
from baichuan_core.finetuning.text_chunks import TextChunks, read_chunks
from checkpoint_files.json_files import LFS_POINTER

DataFormat = Literal["published", "sharegpt", "openai", "alpaca", "text"]
Role = Literal["system", "user", "assistant"]

_SHAREGPT_ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_OPENAI_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", ".xls", ".xlsx", ".parquet")
DOCUMENT_SUFFIXES = (".pdf", ".doc", ".docx")
ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
PDF_SIGNATURE = b"%PDF"
HTML_PREFIXES = (b"<!doctype html", b"<html")
SNIFF_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Conversation:
    """One example of the data set.

    Attributes:
        place: Position in the file for error messages, such as "line 12 (example 3)".
        turns: `(is_user, text)` of each turn; empty for plain text.
        system: Text before the first turn, without a marker.
        text: Chunks of a plain text that is learned as a whole, instead of turns.
    """

    place: str
    turns: tuple[tuple[bool, str], ...]
    system: str | None = None
    text: Iterable[str] | None = None


@dataclass(slots=True)
class ConversationFile:
    """The examples of a file; each iteration reads the file again, one example at a time.

    Attributes:
        path: The file.
        format: The format, inferred from the examples read so far; None before the first.
    """

    path: Path
    format: DataFormat | None = None

    def __iter__(self) -> Iterator[Conversation]:
        """Yield the examples.

        Raises:
            DatasetError: The file is missing, not UTF-8, not JSON, of an unsupported type (a table, a document, a web
                page, an archive or a git-LFS pointer), or has a malformed example; the message names the line.
        """
        self.format = None
        _reject_unsupported_files(self.path)
        chunks = read_chunks(self.path)
        start = _read_start(chunks)
        beginning = start.lstrip()[:1]
        if not beginning:
            raise _make_no_examples_error(self.path)
        if beginning not in "[{":
            if self.path.suffix.lower() in JSON_SUFFIXES:
                line = 1 + start[: -len(start.lstrip())].count("\n")
                raise DatasetError(
                    f"line {line} of {self.path.name} is not a JSON object or array; write one example per line; to"
                    " train on plain text, give the file a name that ends in .txt"
                )
            self.format = "text"
            yield Conversation("line 1 (example 1)", (), text=TextChunks(self.path))
            return
        text = chain([start], chunks)
        items = read_array_items(text) if beginning == "[" else read_line_items(text)
        for number, (line, item) in enumerate(items, start=1):
            place = f"line {line} (example {number})"
            found = _detect_format(item, place)
            if self.format is not None and _ALLOWED_KEYS[found] != _ALLOWED_KEYS[self.format]:
                raise DatasetError(
                    f"{place} is in the format {found!r}, but earlier lines are in {self.format!r};"
                    " use one format for the whole file"
                )
            self.format = "sharegpt" if "sharegpt" in (self.format, found) else found
            yield _READERS[found](item, place)
        if self.format is None:
            raise _make_no_examples_error(self.path)


def read_conversations(path: Path) -> list[Conversation]:
    """Read the examples of a data set in any format.

    Raises:
        DatasetError: See `ConversationFile`.
    """
    return list(ConversationFile(path))


def _reject_unsupported_files(path: Path) -> None:
    """Reject files of other types, which would otherwise be learned as plain text or fail with an obscure error."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        raise DatasetError(f"the training data {path.name} is a table; convert it to JSON lines, one object per row")
    try:
        with path.open("rb") as stream:
            beginning = stream.read(SNIFF_BYTES).removeprefix(BOM_UTF8).lstrip()
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}") from error
    if path.suffix.lower() in DOCUMENT_SUFFIXES or beginning.startswith(PDF_SIGNATURE):
        raise DatasetError(f"the training data {path.name} is a document; convert it to plain text or JSON lines")
    if beginning.startswith(LFS_POINTER):
        raise DatasetError(
            f"{path.name} is a git-LFS pointer, not the file itself; run `git lfs pull` in its repository"
        )
    if beginning.startswith(ZIP_SIGNATURES):
        raise DatasetError(
            f"the training data {path.name} is a ZIP archive or a workbook; unpack it, or convert it to JSON"
        )
    if beginning.lower().startswith(HTML_PREFIXES):
        raise DatasetError(f"the training data {path.name} is a web page; download the file that the page shows")


def _read_start(chunks: Iterator[str]) -> str:
    """Read up to and including the first chunk that is not blank."""
    start = ""
    for chunk in chunks:
        start += chunk
        if chunk.strip():
            break
    return start


def _make_no_examples_error(path: Path) -> DatasetError:
    return DatasetError(f"the training data {path.name} contains no examples; add at least one conversation")


def _detect_format(item: Any, place: str) -> DataFormat:
    if not isinstance(item, dict):
        raise DatasetError(f"{place} is not an object; write {{'id': ..., 'conversations': [...]}}")
    if "conversations" in item:
        return "sharegpt" if "system" in item or _starts_with_system_turn(item["conversations"]) else "published"
    if "messages" in item:
        return "openai"
    if "instruction" in item:
        return "alpaca"
    if "text" in item:
        return "text"
    raise DatasetError(
        f"{place} has no turns; it needs one of the keys 'conversations' (published, ShareGPT), 'messages' (OpenAI),"
        " 'instruction' (Alpaca) or 'text'"
    )


def _starts_with_system_turn(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and turns[0].get("from") == "system"


def _read_sharegpt(item: dict[str, Any], place: str) -> Conversation:
    turns = item["conversations"]
    if not isinstance(turns, list) or not turns:
        raise DatasetError(f"{place} has no turns; set 'conversations' to a list of {{'from': ..., 'value': ...}}")
    return _make_conversation(
        place, _read_turns(turns, place, ("from", "value"), _SHAREGPT_ROLES, "'human' or 'gpt'"), item.get("system")
    )


def _read_openai(item: dict[str, Any], place: str) -> Conversation:
    turns = item["messages"]
    if not isinstance(turns, list) or not turns:
        raise DatasetError(f"{place} has no messages; set 'messages' to a list of {{'role': ..., 'content': ...}}")
    return _make_conversation(
        place, _read_turns(turns, place, ("role", "content"), _OPENAI_ROLES, "'system', 'user' or 'assistant'"), None
    )


def _read_alpaca(item: dict[str, Any], place: str) -> Conversation:
    turns: list[tuple[Role, str]] = []
    history = item.get("history") or []
    if not isinstance(history, list) or not all(isinstance(one, list) and len(one) == 2 for one in history):  # noqa: PLR2004
        raise DatasetError(f"{place} has a malformed 'history'; write a list of [question, answer] pairs")
    for question, answer in history:
        turns += [
            ("user", _require_string(question, place, "history")),
            ("assistant", _require_string(answer, place, "history")),
        ]
    instruction, context = _require_string(item["instruction"], place, "instruction"), item.get("input") or ""
    question = f"{instruction}\n{_require_string(context, place, 'input')}" if context else instruction
    turns.append(("user", question))
    if item.get("output") is not None:
        turns.append(("assistant", _require_string(item["output"], place, "output")))
    return _make_conversation(place, turns, item.get("system"))


def _read_text(item: dict[str, Any], place: str) -> Conversation:
    return Conversation(place, (), text=(_require_string(item["text"], place, "text"),))


def _read_turns(
    turns: list[Any], place: str, keys: tuple[str, str], roles: Mapping[str, Role], choices: str
) -> Iterator[tuple[Role, str]]:
    for number, turn in enumerate(turns, start=1):
        where = f"{place}, turn {number}"
        if not isinstance(turn, dict) or any(key not in turn for key in keys):
            raise DatasetError(f"{where} needs both {keys[0]!r} and {keys[1]!r}")
        _reject_unknown_keys(turn, keys, where)
        role = turn[keys[0]]
        if not isinstance(role, str) or role not in roles:
            raise DatasetError(f"{where} has the unknown role {role!r}; use {choices}")
        if roles[role] == "system" and number > 1:
            raise DatasetError(f"{where} is a system message; only the first turn may be one")
        yield roles[role], _require_string(turn[keys[1]], where, keys[1])


def _make_conversation(
    place: str, turns: Iterator[tuple[Role, str]] | list[tuple[Role, str]], system: Any
) -> Conversation:
    spoken = list(turns)
    if spoken[0][0] == "system":
        if system is not None:
            raise DatasetError(f"{place} has both a system message and the key 'system'; leave one out")
        system = spoken.pop(0)[1]
    elif system is not None:
        system = _require_string(system, place, "system")
    return Conversation(place, tuple((role == "user", text) for role, text in spoken), system or None)


def _require_string(value: Any, place: str, key: str) -> str:
    if not isinstance(value, str):
        raise DatasetError(f"{place} has a {key!r} that is not a string; write it as a string")
    return value


def _reject_unknown_keys(item: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in item:
        if key not in known:
            raise DatasetError(
                f"{place} has the unknown key {key!r}; remove it, or use one of {', '.join(map(repr, known))}"
            )


_ALLOWED_KEYS: Mapping[DataFormat, tuple[str, ...]] = {
    "published": ("id", "conversations", "system"),
    "sharegpt": ("id", "conversations", "system"),
    "openai": ("id", "messages"),
    "alpaca": ("id", "instruction", "input", "output", "system", "history"),
    "text": ("id", "text"),
}


def _add_key_check(
    read: Callable[[dict[str, Any], str], Conversation], name: DataFormat
) -> Callable[[Any, str], Conversation]:
    def read_checked(item: dict[str, Any], place: str) -> Conversation:
        _reject_unknown_keys(item, _ALLOWED_KEYS[name], place)
        return read(item, place)

    return read_checked


_READERS: Mapping[DataFormat, Callable[[Any, str], Conversation]] = {
    "published": _add_key_check(_read_sharegpt, "published"),
    "sharegpt": _add_key_check(_read_sharegpt, "sharegpt"),
    "openai": _add_key_check(_read_openai, "openai"),
    "alpaca": _add_key_check(_read_alpaca, "alpaca"),
    "text": _add_key_check(_read_text, "text"),
}
