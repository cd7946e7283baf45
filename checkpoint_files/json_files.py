"""JSON files as people and tools write them: with a byte order mark, in UTF-16, or as a git-LFS pointer."""

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import FileError

LFS_POINTER = b"version https://git-lfs"


def read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileError: The file is missing, unreadable or does not contain a JSON object.
    """
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise FileError(f"{file} is missing") from None
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror}") from error
    refuse_lfs_pointer(file, raw)
    try:
        content = json.loads(raw)  # bytes, so that json detects a byte order mark and UTF-16
    except (ValueError, RecursionError) as error:
        raise FileError(f"{file} is damaged, it is not valid JSON ({error}): copy or download it again") from error
    if not isinstance(content, dict):
        raise FileError(f"{file} is damaged, it must contain a JSON object: copy or download it again")
    return content


def refuse_byte_order_mark(file: Path) -> None:
    """Raise FileError if a file that transformers reads itself begins with a byte order mark, which it cannot skip."""
    with file.open("rb") as stream:
        beginning = stream.read(len(BOM_UTF8))
    if beginning.startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE)):
        raise FileError(f"{file} begins with a byte order mark: save it as UTF-8 without one")


def refuse_lfs_pointer(file: Path, beginning: bytes) -> None:
    """Raise FileError if a file is the pointer that git writes when git-LFS is not installed."""
    if beginning.startswith(LFS_POINTER):
        raise FileError(f"{file} is a git-LFS pointer, not the file itself: run `git lfs pull` in its repository")


def as_whole_numbers(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return `fields` with those of `names` that are floats of integral value, such as 5.0, as integers."""
    changed = {name: _as_whole(fields[name]) for name in names if name in fields}
    return {**fields, **changed}


def _as_whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
