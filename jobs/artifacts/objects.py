"""An artifact store in an object store (S3 and similar), with a cache on the local disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore as Backend
from obstore.store import from_url

from jobs.artifacts.cache import ArtifactCache
from jobs.artifacts.store import STALE_TRANSFER_SECONDS, delete_older_than, delete_path
from jobs.artifacts.workspace import Workspace
from jobs.identifiers import new_id


class ObjectStore:
    """A store that uploads the files of a local workspace when they are published.

    Credentials come from the environment (AWS_ACCESS_KEY_ID, …).
    """

    def __init__(self, backend: Backend, cache: Path, limit: int = 0) -> None:
        self._backend = backend
        self._cache = cache.resolve()
        self._cache.mkdir(parents=True, exist_ok=True)
        self._fetched = ArtifactCache(self._cache / "fetched", limit)

    @classmethod
    def from_url(cls, url: str, *, cache: Path, limit: int = 0) -> Self:
        """Open a URL such as s3://bucket/prefix; `limit` is the maximum size of the cache in bytes, 0 for no limit."""
        return cls(from_url(url), cache, limit)

    def open_workspace(self, key: str) -> Path:
        """See `ArtifactStore.open_workspace`."""
        folder = self._cache / "work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, key: str) -> None:
        """See `ArtifactStore.publish`."""
        folder = self.open_workspace(key)
        self._upload(folder, key)
        fetched = self._fetched.get_path(key)
        if not fetched.exists():  # a later job on this machine can then read the result from the cache
            fetched.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(fetched)

    def hold(self, key: str) -> Path:
        """See `ArtifactStore.hold`; hard links take no space and keep the content of deleted files."""
        held = self._cache / "work" / "incoming" / new_id("held")
        shutil.copytree(self.open_workspace(key), held, copy_function=os.link)
        return held

    def share(self, held: Path, key: str) -> None:
        """See `ArtifactStore.share`."""
        self._upload(held, key)
        self.release(held)

    def release(self, held: Path) -> None:
        """See `ArtifactStore.release`."""
        delete_path(held)

    def list_sizes(self, key: str) -> dict[str, int]:
        """See `ArtifactStore.list_sizes`."""
        entries = [entry for batch in obstore.list(self._backend, prefix=key) for entry in batch]
        return {entry["path"].removeprefix(f"{key}/"): entry["size"] for entry in entries}

    def copy(self, source: str, target: str) -> None:
        """See `ArtifactStore.copy`."""
        try:
            obstore.copy(self._backend, source, target)
        except NotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "the object does not exist", source) from error

    def open_scratch_folder(self) -> Path:
        """See `ArtifactStore.open_scratch_folder`."""
        return self.open_workspace("incoming")

    def put(self, source: Path, key: str) -> None:
        """See `ArtifactStore.put`."""
        try:
            obstore.put(self._backend, key, source)
        except BaseError as error:
            raise OSError(errno.EIO, "the object store rejected the file") from error
        source.unlink()

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """See `ArtifactStore.read`."""
        if stop <= start:
            return
        for piece in obstore.get(self._backend, key, options={"range": (start, stop)}).stream():
            yield bytes(piece)

    def fetch_path(self, key: str) -> Path:
        """Return the local path of a file or folder; download it first if it is not cached."""
        target = self._fetched.get_path(key)
        while not self._fetched.hold(key):  # the download may be evicted before it is locked
            self._download(key, target)
        return target

    def delete(self, key: str) -> None:
        """See `ArtifactStore.delete`."""
        names = [entry["path"] for batch in obstore.list(self._backend, prefix=key) for entry in batch]
        for name in names or [key]:
            try:
                obstore.delete(self._backend, name)
            except (NotFoundError, FileNotFoundError):
                continue
        self.delete_workspace(key)
        self._fetched.delete(key)

    def tidy(self) -> None:
        """See `ArtifactStore.tidy`."""
        delete_older_than((self._cache / "work" / "incoming").glob("*"), STALE_TRANSFER_SECONDS)
        self._fetched.evict()

    def list_workspaces(self) -> list[Workspace]:
        """Return the workspaces that are on this machine."""
        folders = (self._cache / "work").glob("jobs/*/*")
        return [Workspace(folder.parent.name, folder.name) for folder in folders]

    def delete_workspace(self, key: str) -> None:
        """Delete the unpublished files under `key` on this machine's disk."""
        delete_path(self._cache / "work" / key)

    def free_bytes(self) -> int:
        """See `ArtifactStore.free_bytes`."""
        return shutil.disk_usage(self._cache).free

    def _upload(self, folder: Path, key: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                obstore.put(self._backend, f"{key}/{path.relative_to(folder).as_posix()}", path)

    def _download(self, key: str, target: Path) -> None:
        """Download to `target`, which appears only once the download is complete."""
        arriving = target.with_name(f"{target.name}.{new_id('arriving')}")  # another runner may be downloading it too
        names = [entry["path"] for batch in obstore.list(self._backend, prefix=key) for entry in batch]
        for name in names or [key]:
            self._download_object(name, arriving if name == key else arriving / name.removeprefix(f"{key}/"))
        try:
            arriving.rename(target)
        except OSError:
            if not target.exists():
                raise
            shutil.rmtree(arriving)  # another runner has already downloaded this folder

    def _download_object(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in obstore.get(self._backend, name).stream():
                file.write(piece)
