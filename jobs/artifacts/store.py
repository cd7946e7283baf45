"""The interface of artifact stores.

Each attempt writes under its own key, and a file becomes an artifact only when SQL has a row for it. So no incomplete
file is ever visible, and the files of a superseded attempt are invisible garbage.
"""

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file under a folder: its relative path, size in bytes and SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


STALE_TRANSFER_SECONDS = 24 * 3600  # seconds without a write after which an upload or download is considered abandoned


class ArtifactStore(Protocol):
    """Storage for files under keys, which are relative paths with '/'."""

    def open_workspace(self, key: str) -> Path:
        """Return a local folder for the files that an attempt will publish under `key`."""
        ...

    def publish(self, key: str) -> None:
        """Make the files in the workspace of `key` readable under that key on every machine."""
        ...

    def open_scratch_folder(self) -> Path:
        """Return a local folder for uploads in progress."""
        ...

    def put(self, source: Path, key: str) -> None:
        """Move a local file to `key`."""
        ...

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of a file in chunks."""
        ...

    def fetch_path(self, key: str) -> Path:
        """Return the local path of the file or folder `key`; download it first if it is not on this machine."""
        ...

    def hold(self, key: str) -> Path:
        """Return a folder where the workspace's current files for `key` stay readable even after they are deleted."""
        ...

    def share(self, held: Path, key: str) -> None:
        """Make the files in a held folder readable under `key` on every machine; leave the workspace unchanged."""
        ...

    def release(self, held: Path) -> None:
        """Release a folder that `hold` returned."""
        ...

    def list_sizes(self, key: str) -> dict[str, int]:
        """Return the size in bytes of each file under `key`, by relative path."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Copy one file to another key without downloading it.

        Raises:
            FileNotFoundError: `source` does not exist.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete the file or folder `key` if it exists."""
        ...

    def tidy(self) -> None:
        """Delete abandoned transfers and excess cache entries from this machine's disk."""
        ...

    def free_bytes(self) -> int:
        """Return the number of bytes that are free for workspaces on this machine."""
        ...


def delete_older_than(paths: Iterable[Path], seconds: float) -> None:
    """Delete files and folders that have not been written to for this many seconds."""
    for path in paths:
        with suppress(FileNotFoundError):  # the upload has finished, or another process is deleting the path too
            newest = max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
            if newest < time.time() - seconds:
                delete_path(path)


def delete_path(path: Path) -> None:
    """Delete a file, or a folder with all its content, if it exists.

    Raises:
        OSError: A file or folder cannot be deleted.
    """
    try:
        shutil.rmtree(path)
    except NotADirectoryError:
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        if path.exists():  # another process is deleting files in the same folder
            shutil.rmtree(path, ignore_errors=True)


def describe_files(folder: Path, patterns: Sequence[str] = ("*",)) -> list[StoredFile]:
    """Return the size and SHA-256 of every file under `folder` that matches a pattern, sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and any(map(path.match, patterns)))
    return [
        StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size, _compute_sha256(path)) for path in files
    ]


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
