"""An artifact store in an object store (S3 and its like), with a cache on the local disk."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore as Backend
from obstore.store import from_url

from jobs.identifiers import new_id


class ObjectStore:
    """Workspaces are local; publishing uploads them. Credentials come from the environment (AWS_ACCESS_KEY_ID, …)."""

    def __init__(self, backend: Backend, cache: Path) -> None:
        self._backend = backend
        self._cache = cache.resolve()
        self._cache.mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_url(cls, url: str, *, cache: Path) -> Self:
        """Open a URL such as s3://bucket/prefix."""
        return cls(from_url(url), cache)

    def workspace(self, key: str) -> Path:
        """See `ArtifactStore.workspace`."""
        folder = self._cache / "work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, key: str) -> None:
        """See `ArtifactStore.publish`."""
        folder = self.workspace(key)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                obstore.put(self._backend, f"{key}/{path.relative_to(folder).as_posix()}", path)
        fetched = self._cache / "fetched" / key
        if not fetched.exists():  # a job on this machine that names the result need not fetch it again
            fetched.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(fetched)

    def scratch(self) -> Path:
        """See `ArtifactStore.scratch`."""
        return self.workspace("incoming")

    def put(self, source: Path, key: str) -> None:
        """See `ArtifactStore.put`."""
        try:
            obstore.put(self._backend, key, source)
        except BaseError as error:
            raise OSError(errno.EIO, "the object store refuses the file") from error
        source.unlink()

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """See `ArtifactStore.read`."""
        if stop <= start:
            return
        for piece in obstore.get(self._backend, key, options={"range": (start, stop)}).stream():
            yield bytes(piece)

    def local(self, key: str) -> Path:
        """Fetch a file, or all files below a folder; what was fetched completely before is used again."""
        target = self._cache / "fetched" / key
        if target.exists():
            return target
        arriving = target.with_name(f"{target.name}.{new_id('arriving')}")  # runners may fetch the same at once
        names = [entry["path"] for batch in obstore.list(self._backend, prefix=key) for entry in batch]
        for name in names or [key]:
            self._fetch(name, arriving if name == key else arriving / name.removeprefix(f"{key}/"))
        try:
            arriving.rename(target)
        except OSError:
            if not target.exists():
                raise
            shutil.rmtree(arriving)  # another runner was faster with the same folder
        return target

    def delete(self, key: str) -> None:
        """See `ArtifactStore.delete`."""
        names = [entry["path"] for batch in obstore.list(self._backend, prefix=key) for entry in batch]
        for name in names or [key]:
            try:
                obstore.delete(self._backend, name)
            except (NotFoundError, FileNotFoundError):
                continue
        for folder in ("work", "fetched"):
            shutil.rmtree(self._cache / folder / key, ignore_errors=True)
            (self._cache / folder / key).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """See `ArtifactStore.free_bytes`."""
        return shutil.disk_usage(self._cache).free

    def _fetch(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in obstore.get(self._backend, name).stream():
                file.write(piece)
