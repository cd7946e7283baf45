"""The JSONL file of completions, and the partial file from which an interrupted run resumes."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from baichuan_core.errors import CheckpointError

LineKey = tuple[int, int]  # index of the request, index of the sample


class PartialFile:
    """The completions that a run has finished so far, in the order in which they finished.

    The first line of the file contains the run's fingerprint, so that no other run reuses the lines.

    Attributes:
        lines: The finished lines, keyed by request and sample.
    """

    def __init__(self, path: Path, file: IO[str], lines: dict[LineKey, str]) -> None:
        self.lines = lines
        self._path = path
        self._file = file

    @classmethod
    @contextmanager
    def open_for_run(cls, path: Path, fingerprint: str, earlier: Path) -> Iterator["PartialFile"]:
        """Lock the file for one run, and copy that run's lines from `earlier`, which may be the same file.

        Raises:
            CheckpointError: Another run has locked the file, or it cannot be written.
        """
        with _open_locked(path) as file:
            lines = read_finished_lines(earlier, fingerprint)
            # If resuming in place, do not truncate first: the same bytes are rewritten, so a crash cannot lose lines.
            if not lines or earlier != path:
                file.truncate(0)
            begun = cls(path, file, lines)
            begun._write((json.dumps({"fingerprint": fingerprint}), *lines.values()))
            file.truncate()
            try:
                yield begun
            except BaseException:
                if not begun.lines:
                    begun.remove()
                raise

    def append(self, key: LineKey, line: str) -> None:
        """Add a line. Once this returns, the line survives even if the process is killed.

        Raises:
            CheckpointError: The file cannot be written.
        """
        self._write((line,))
        self.lines[key] = line

    def remove(self) -> None:
        """Delete the file; call this once its lines are in the output."""
        self._path.unlink()

    def _write(self, lines: Iterable[str]) -> None:
        try:
            self._file.write("".join(f"{line}\n" for line in lines))
            self._file.flush()
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be written: {error.strerror}") from error


@contextmanager
def _open_locked(path: Path) -> Iterator[IO[str]]:
    """Create the file if missing, and keep it locked until the block or the process ends."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
    with file:
        if not _try_lock(file) or not _is_same_file(file, path):
            raise CheckpointError(f"another run is writing {path}: wait until it finishes, or choose another output")
        yield file


def _try_lock(file: IO[str]) -> bool:
    """Try to lock the file; return False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the file system does not support locks
    return True


def _is_same_file(file: IO[str], path: Path) -> bool:
    """Return whether the path still refers to this file; a run that ended in the meantime may have deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def read_finished_lines(path: Path, fingerprint: str) -> dict[LineKey, str]:
    """Return the complete lines of a partial file, or no lines if it is missing or belongs to another run."""
    try:
        head, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return {}
    if (_parse_object(head) or {}).get("fingerprint") != fingerprint:
        return {}
    finished: dict[LineKey, str] = {}
    for line in lines[:-1]:  # text after the last line break is an incomplete line from a run that was killed
        fields = _parse_object(line)
        if fields is None or not fields.keys() >= {"index", "sample"}:
            break
        finished[fields["index"], fields["sample"]] = line
    return finished


def write_completions(output: Path, lines: Mapping[LineKey, str]) -> None:
    """Write the output atomically, in request order.

    Raises:
        CheckpointError: The file cannot be written.
    """
    _write_atomically(output, "".join(f"{lines[key]}\n" for key in sorted(lines)))


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _write_atomically(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
