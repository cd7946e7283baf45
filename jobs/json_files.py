"""Reading JSON files of directories that somebody else filled: only regular files of a sensible size."""

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from jobs.errors import InvalidRequestError

MAX_BYTES = 2**20  # published configurations have 1 to 2 kB


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file of a directory that is to be registered.

    Raises:
        InvalidRequestError: The file is missing, unreadable, not regular, too large or not a JSON object.
    """
    try:
        content = json.loads(_read(path).decode("utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InvalidRequestError(f"{path.name} is missing in the directory", param="path") from None
    except OSError as error:
        raise InvalidRequestError(f"{path.name} cannot be read: {error.strerror}", param="path") from None
    except RecursionError:
        raise InvalidRequestError(f"{path.name} is nested too deeply; use the published file", param="path") from None
    except ValueError as error:
        raise InvalidRequestError(f"{path.name} is not valid JSON: {error}", param="path") from None
    if not isinstance(content, dict):
        raise InvalidRequestError(f"{path.name} must hold a JSON object", param="path")
    return content


def _read(path: Path) -> bytes:
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidRequestError(f"{path.name} is not a regular file; replace it by a copy", param="path")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"{path.name} is larger than {MAX_BYTES} bytes; use the published file", param="path")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a FIFO would otherwise block until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
