"""The JSONL file of completions: lines kept as they come, so that an interrupted run goes on, and the whole at last."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from baichuan_core.errors import CheckpointError

Key = tuple[int, int]  # index of the request, number of the sample


class PartialFile:
    """Finished lines of a run in the order in which they finished, below a line that says which run it is.

    Attributes:
        lines: They.
    """

    def __init__(self, path: Path, file: IO[str], lines: dict[Key, str]) -> None:
        self.lines = lines
        self._path = path
        self._file = file

    @classmethod
    @contextmanager
    def begin(cls, path: Path, fingerprint: str, earlier: Path) -> Iterator["PartialFile"]:
        """Holds the file for one run and puts in it what the file ``earlier``, which may be the same, has of that run.

        Raises:
            CheckpointError: Another run holds it, or it cannot be written.
        """
        with _held(path) as file:
            lines = finished_lines(earlier, fingerprint)
            if not lines or earlier != path:
                file.truncate(0)  # else the same bytes are written again, so that none is missing at any time
            begun = cls(path, file, lines)
            begun._write((json.dumps({"fingerprint": fingerprint}), *lines.values()))
            file.truncate()
            try:
                yield begun
            except BaseException:
                if not begun.lines:
                    begun.remove()
                raise

    def append(self, key: Key, line: str) -> None:
        """Adds a line; it is there even if the process is killed the moment after.

        Raises:
            CheckpointError: It cannot be written.
        """
        self._write((line,))
        self.lines[key] = line

    def remove(self) -> None:
        """Takes the file away; the lines are elsewhere now."""
        self._path.unlink()

    def _write(self, lines: Iterable[str]) -> None:
        try:
            self._file.write("".join(f"{line}\n" for line in lines))
            self._file.flush()
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be written: {error.strerror}") from error


@contextmanager
def _held(path: Path) -> Iterator[IO[str]]:
    """The file, there and locked until the block or the process ends."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
    with file:
        if not _lock(file) or not _is_at(file, path):
            raise CheckpointError(f"another run is writing {path}: wait until it has ended, or name another output")
        yield file


def _lock(file: IO[str]) -> bool:
    """Whether nobody else holds the file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the file still has its name; a run that ended meanwhile took it away."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


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
        if fields is None or not fields.keys() >= {"index", "sample"}:
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
