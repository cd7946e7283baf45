"""Reads JSON files of other tools, which may have a byte order mark, use UTF-16 or be a git-LFS pointer."""

import json
import os
import stat
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .errors import FileError

LFS_POINTER = b"version https://git-lfs"
MAX_BYTES = 2**22  # published configurations take 1 to 2 kB, shard indexes up to 100 kB


def read_object(file: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileError: The file is missing, unreadable, not a regular file or too large, or is not a JSON object.
    """
    raw = read_bytes(file, max_bytes)
    try:
        # Pass bytes, so that `json` detects a byte order mark and UTF-16.
        content = json.loads(raw, parse_constant=_reject_constant)
    except RecursionError:
        raise FileError(f"{file} is nested too deeply: use the published file") from None
    except ValueError as error:
        raise FileError(f"{file} is not valid JSON ({error}): it is damaged, copy or download it again") from error
    if not isinstance(content, dict):
        raise FileError(f"{file} must contain a JSON object: it is damaged, copy or download it again")
    return content


def read_bytes(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        FileError: The file is missing, unreadable, not a regular file, too large or a git-LFS pointer.
    """
    try:
        with open(file, "rb", opener=_open_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise FileError(f"{file} is not a regular file: replace it with a copy")
            content = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise FileError(f"{file} is missing") from None
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise FileError(f"{file} is larger than {max_bytes} bytes: use the published file")
    reject_lfs_pointer(file, content)
    return content


def reject_byte_order_mark(file: Path) -> None:
    """Raise FileError if a file begins with a byte order mark, which transformers cannot skip."""
    with file.open("rb") as stream:
        beginning = stream.read(len(BOM_UTF8))
    if beginning.startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE)):
        raise FileError(f"{file} begins with a byte order mark: save it as UTF-8 without one")


def reject_lfs_pointer(file: Path, beginning: bytes) -> None:
    """Raise FileError if a file is the pointer that git writes when git-LFS is not installed."""
    if beginning.startswith(LFS_POINTER):
        raise FileError(f"{file} is a git-LFS pointer, not the file itself: run `git lfs pull` in its repository")


def describe_json_error(error: ValueError | RecursionError) -> str:
    """Say why `json` cannot parse a text, and what to change if that is known; its own messages are meant for code."""
    if isinstance(error, RecursionError):
        return "it has too many nested brackets"
    if not isinstance(error, json.JSONDecodeError):  # the only other ValueError of `json` while parsing text
        return f"a number has more than {sys.get_int_max_str_digits()} digits; shorten it, or write it as a string"
    if error.msg.startswith("Invalid control character"):
        escaped = json.dumps(error.doc[error.pos])[1:-1]
        return f"a string contains an unescaped control character; write it as {escaped}, or remove it"
    return error.msg


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking; opening a FIFO would otherwise block until something writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def as_whole_numbers(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return `fields`, with integral floats such as 5.0 in the fields `names` converted to integers."""
    changed = {name: _as_whole(fields[name]) for name in names if name in fields}
    return {**fields, **changed}


def _as_whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
