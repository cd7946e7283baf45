"""The JSONL file of completions: lines kept as they come, so that an interrupted run goes on, and the whole at last."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from baichuan_core.errors import CheckpointError

Key = tuple[int, int]  # index of the request, number of the sample


class PartialFile:
    """Finished lines of a run in the order in which they finished, below a line that says which run it is."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def append(self, line: str) -> None:
        """Adds a line; it is there even if the process is killed the moment after."""
        self._file.write(line + "\n")
        self._file.flush()

    @classmethod
    @contextmanager
    def begin(cls, path: Path, fingerprint: str, lines: Mapping[Key, str]) -> Iterator["PartialFile"]:
        """Starts the file with the lines that are known already; it never holds fewer than those.

        Raises:
            CheckpointError: It cannot be written.
        """
        head = json.dumps({"fingerprint": fingerprint})
        _write_whole(path, "".join(f"{line}\n" for line in (head, *lines.values())))
        with path.open("a", encoding="utf-8") as file:
            yield cls(file)


def finished_lines(path: Path, fingerprint: str) -> dict[Key, str]:
    """The whole lines of a partial file of the same run; none if there is no such file or it is of another run."""
    try:
        head, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return {}
    if (_parsed(head) or {}).get("fingerprint") != fingerprint:
        return {}
    finished: dict[Key, str] = {}
    for line in lines[:-1]:  # what follows the last line break was torn off by the end of a run
        fields = _parsed(line)
        if fields is None:
            break
        finished[fields["index"], fields["sample"]] = line
    return finished


def write_completions(output: Path, lines: Mapping[Key, str]) -> None:
    """Writes the result in the order of the requests, whole or not at all.

    Raises:
        CheckpointError: It cannot be written.
    """
    _write_whole(output, "".join(f"{lines[key]}\n" for key in sorted(lines)))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _write_whole(path: Path, content: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
