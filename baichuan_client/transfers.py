"""The local side of uploads and downloads, without HTTP."""

import errno
import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

import httpx

from baichuan_client.call import Call
from baichuan_client.calls import STREAM_TIMEOUT, file_path, job_path
from baichuan_client.errors import DownloadError, UnreachableError
from baichuan_client.retry_state import MAX_TRIES, next_delay
from baichuan_client.schemas import Artifact, File

PARTIAL_FILE_SUFFIX = ".part"
CHUNK_BYTES = 2**20

Progress = Callable[[int, int], None]
"""Called with the number of bytes transferred and the size of the file."""


class Download:
    """A resumable download to `<name>.part`; the file is renamed once its hash has been checked."""

    def __init__(self, path: str, target: Path, *, size: int, sha256: str, progress: Progress | None = None) -> None:
        """Prepare a download; nothing is written yet.

        Args:
            path: Path of the file, relative to the service's address.
            target: File to write; missing directories are created.
            size: Bytes of the whole file.
            sha256: Hash of the file in hex; also its entity tag.
            progress: Called after each chunk.
        """
        self.target = target
        self._path = path
        self._size = size
        self._sha256 = sha256
        self._progress = progress
        self._part = target.with_name(target.name + PARTIAL_FILE_SUFFIX)
        self._done = 0
        self._failures = 0

    @classmethod
    def from_artifact(cls, artifact: Artifact, path: Path, progress: Progress | None = None) -> Self:
        """Prepare the download of an artifact to a file, or to its own path in an existing directory.

        Raises:
            DownloadError: The artifact's path would lead out of the directory.
        """
        target = place(path, artifact.path) if path.is_dir() else path
        address = job_path(artifact.job_id, f"artifacts/{artifact.path}")
        return cls(address, target, size=artifact.bytes, sha256=artifact.sha256, progress=progress)

    @classmethod
    def from_file(cls, file: File, path: Path, progress: Progress | None = None) -> Self:
        """Prepare the download of an uploaded file to a file, or to its own name in an existing directory.

        Raises:
            DownloadError: The file's name would lead out of the directory.
        """
        target = place(path, file.filename) if path.is_dir() else path
        return cls(file_path(file.id, "/content"), target, size=file.bytes, sha256=file.sha256, progress=progress)

    def begin(self) -> bool:
        """Return False if the target is already complete; otherwise, prepare the partial file and return True."""
        if self.target.exists() and self.target.stat().st_size == self._size and _hash(self.target) == self._sha256:
            return False
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self._part.exists() and self._part.stat().st_size > self._size:
            self._part.unlink()
        self._part.touch()
        return True

    def is_missing_bytes(self) -> bool:
        """Return whether the partial file is shorter than the whole file."""
        self._done = self._part.stat().st_size
        return self._done < self._size

    def call(self) -> Call[None]:
        """Return the request for the missing bytes; the entity tag ensures that they belong to the same file."""
        headers = {"Range": f"bytes={self._done}-", "If-Range": f'"{self._sha256}"'} if self._done else {}
        return Call("GET", self._path, _ignore_content, headers=headers, timeout=STREAM_TIMEOUT)

    @contextmanager
    def receiving(self, response: httpx.Response) -> Iterator[Callable[[bytes], None]]:
        """Yield a function that appends a chunk of the response to the partial file.

        Raises:
            DownloadError: The response ended without an error, but too early.
        """
        is_resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        self._done = self._done if is_resumed else 0
        with self._part.open("ab" if is_resumed else "wb") as file:

            def write(chunk: bytes) -> None:
                file.write(chunk)
                self._done += len(chunk)
                self._failures = 0
                if self._progress is not None:
                    self._progress(self._done, self._size)

            yield write
        if self._done < self._size:
            raise DownloadError(f"{self._path} has {self._done} bytes instead of {self._size}; list the files again")

    def note_interruption(self, error: UnreachableError) -> float:
        """Return the seconds to wait before the next request.

        Raises:
            UnreachableError: Several consecutive requests returned no bytes.
        """
        self._failures += 1
        if self._failures >= MAX_TRIES:
            raise error
        return next_delay(self._failures)

    def finish(self) -> Path:
        """Check the hash and move the partial file to the target.

        Raises:
            DownloadError: The hash is wrong; the partial file is deleted.
        """
        if (found := _hash(self._part)) != self._sha256:
            self._part.unlink()
            name = self._path.partition("/artifacts/")[2] or self.target.name
            raise DownloadError(f"{name} was received with sha256 {found} instead of {self._sha256}; download it again")
        self._part.replace(self.target)
        return self.target


class _ReportingReader(io.BufferedReader):
    """A file that reports how far it has been read."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes and report the position."""
        chunk = super().read(size)
        if chunk and self._progress is not None:
            self._progress(self.tell(), self._size)
        return chunk


def open_upload(path: Path, progress: Progress | None = None) -> BinaryIO:
    """Open a file for an upload that reports its progress.

    Raises:
        OSError: The path cannot be read, or is not a regular file; an endless one could never be sent.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return _ReportingReader(path, progress)


def place(directory: Path, path: str) -> Path:
    """Return the local path of an artifact, which is always inside the directory, whatever the artifact's path.

    Raises:
        DownloadError: The path would lead out of the directory.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise DownloadError(f"the artifact path {path!r} would lead out of {directory}; nothing was written")
    return directory / pure


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ignore_content(_content: Any) -> None:
    """Return nothing, because the response is read in chunks."""
