"""A cache of an object store's files on the local disk; the least recently used ones are evicted."""

import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from jobs.artifacts.store import STALE_TRANSFER_SECONDS, delete_older_than, delete_path
from jobs.identifiers import new_id

ENTRY_DEPTH_BY_FOLDER = {
    "jobs": 3
}  # path components per entry: jobs/JOB/ATTEMPT has 3; the default is 2, as in files/FILE


class ArtifactCache:
    """A folder of cache entries. Entries in use are locked by the processes that use them and are never evicted."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._held: dict[Path, int] = {}
        weakref.finalize(self, _close_descriptors, self._held)

    def get_path(self, key: str) -> Path:
        """Return the path of the file or folder `key` in the cache, whether or not it is cached."""
        return self._folder / key

    def hold(self, key: str) -> bool:
        """Mark the entry for `key` as used and pin it while this cache exists; return False if there is no entry."""
        entry = self._folder.joinpath(*_get_entry_path(Path(key)).parts)
        try:
            if entry not in self._held:
                self._held[entry] = _lock(entry, fcntl.LOCK_SH)
            os.utime(entry)
        except OSError:
            return False
        if self.get_path(key).exists() and _is_same_file(self._held[entry], entry):
            return True
        os.close(self._held.pop(entry))  # the entry was evicted before we locked it
        return False

    def evict(self) -> None:
        """Delete abandoned downloads, then the least recently used entries until the others fit within the limit."""
        delete_older_than(self._folder.rglob("*.arriving-*"), STALE_TRANSFER_SECONDS)
        if not self._limit:
            return
        entries = sorted((entry.stat().st_mtime, entry) for entry in self._iterate_entries())
        sizes = {entry: _compute_size(entry) for _, entry in entries}
        excess = sum(sizes.values()) - self._limit
        for _, entry in entries:
            if excess > 0 and self._evict(entry):
                excess -= sizes[entry]

    def delete(self, key: str) -> None:
        """Delete the file or folder `key`, even if a process is using it."""
        delete_path(self.get_path(key))

    def _iterate_entries(self) -> Iterator[Path]:
        for pattern in ("files/*", "jobs/*/*"):
            yield from (path for path in self._folder.glob(pattern) if ".arriving-" not in path.name)

    def _evict(self, entry: Path) -> bool:
        """Delete an entry; return False if a process is using it."""
        try:
            descriptor = _lock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            # If this process dies after the rename, the next `evict` deletes the entry like an abandoned download.
            doomed = entry.with_name(f"{entry.name}.arriving-{new_id('evicted')}")
            entry.rename(doomed)
        finally:
            os.close(descriptor)
        delete_path(doomed)
        return True


def _get_entry_path(key: Path) -> Path:
    return Path(*key.parts[: ENTRY_DEPTH_BY_FOLDER.get(key.parts[0], 2)])


def _lock(path: Path, how: int) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _compute_size(entry: Path) -> int:
    return sum(path.stat().st_size for path in (entry, *entry.rglob("*")) if path.is_file())


def _close_descriptors(held: dict[Path, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()
