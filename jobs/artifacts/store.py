"""What an artifact store does, and how its keys are formed.

An attempt writes under a key of its own, and a file becomes an artifact only by its row in SQL. So nothing half-written
is ever visible, and what a superseded attempt leaves behind is garbage that nobody can see.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below some folder: its relative path, size in bytes and SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


class ArtifactStore(Protocol):
    """Files by key. Keys are relative paths with '/'."""

    def workspace(self, key: str) -> Path:
        """A local folder in which an attempt may write what it will publish under `key`."""
        ...

    def publish(self, key: str) -> None:
        """Make what stands in the workspace of `key` readable under that key on every machine."""
        ...

    def scratch(self) -> Path:
        """A local folder for uploads that are still arriving."""
        ...

    def put(self, source: Path, key: str) -> None:
        """Move a local file to `key`."""
        ...

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file, in pieces."""
        ...

    def local(self, key: str) -> Path:
        """The file or folder `key` on this machine's disk, fetched first if it is elsewhere."""
        ...

    def delete(self, key: str) -> None:
        """Delete the file or folder `key`; nothing happens if there is none."""
        ...

    def free_bytes(self) -> int:
        """Room left for a workspace on this machine."""
        ...


def describe(folder: Path) -> list[StoredFile]:
    """Size and SHA-256 of every file below `folder`, in the order of their paths."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path)) for path in files]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
