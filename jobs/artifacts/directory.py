"""An artifact store in a directory, which all machines must share."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from jobs.artifacts.store import STALE_TRANSFER_SECONDS, delete_older_than, delete_path

CHUNK_BYTES = 1 << 20


class DirectoryStore:
    """A store whose keys are paths under `root`; files are read from the workspace that they were written to."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def open_workspace(self, key: str) -> Path:
        """See `ArtifactStore.open_workspace`."""
        folder = self._resolve_key(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, key: str) -> None:
        """Flush the files to disk, because the result of a job must survive a power failure."""
        self.share(self._resolve_key(key), key)

    def hold(self, key: str) -> Path:
        """See `ArtifactStore.hold`; every machine can read the workspace itself."""
        return self._resolve_key(key)

    def share(self, held: Path, key: str) -> None:  # noqa: ARG002
        """See `ArtifactStore.share`."""
        for path in held.rglob("*"):
            _fsync(path)
        self._sync_folders(held)

    def release(self, held: Path) -> None:
        """See `ArtifactStore.release`."""

    def list_sizes(self, key: str) -> dict[str, int]:
        """See `ArtifactStore.list_sizes`."""
        folder, found = self._resolve_key(key), {}
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # the attempt that owns the folder may be deleting files
                if path.is_file():
                    found[path.relative_to(folder).as_posix()] = path.stat().st_size
        return found

    def copy(self, source: str, target: str) -> None:
        """See `ArtifactStore.copy`; files never change, so a hard link is enough if the disk supports it."""
        path = self._resolve_key(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(self._resolve_key(source))
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(self._resolve_key(source), path)
            _fsync(path)
        self._sync_folders(path.parent)

    def open_scratch_folder(self) -> Path:
        """See `ArtifactStore.open_scratch_folder`."""
        return self.open_workspace("incoming")

    def put(self, source: Path, key: str) -> None:
        """See `ArtifactStore.put`."""
        target = self._resolve_key(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
        self._sync_folders(target.parent)

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """See `ArtifactStore.read`."""
        with self._resolve_key(key).open("rb") as file:
            file.seek(start)
            left = stop - start
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    def fetch_path(self, key: str) -> Path:
        """See `ArtifactStore.fetch_path`."""
        return self._resolve_key(key)

    def delete(self, key: str) -> None:
        """See `ArtifactStore.delete`."""
        delete_path(self._resolve_key(key))

    def tidy(self) -> None:
        """See `ArtifactStore.tidy`."""
        delete_older_than((self.root / "incoming").glob("*"), STALE_TRANSFER_SECONDS)

    def free_bytes(self) -> int:
        """See `ArtifactStore.free_bytes`."""
        return shutil.disk_usage(self.root).free

    def _sync_folders(self, folder: Path) -> None:
        """Flush a folder and its parents to disk, because they may have been created with the files."""
        while folder != self.root:
            _fsync(folder)
            folder = folder.parent
        _fsync(self.root)

    def _resolve_key(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root) or path == self.root:
            raise ValueError(f"the key {key!r} points outside the artifact store")
        return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
