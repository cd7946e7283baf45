"""Where results and uploads are kept: a directory (local or shared), or an object store."""

from pathlib import Path

from jobs.artifacts.directory import DirectoryStore
from jobs.artifacts.objects import ObjectStore
from jobs.artifacts.store import ArtifactStore, StoredFile, describe
from jobs.artifacts.workspace import Workspace
from jobs.settings import Settings


def open_store(settings: Settings) -> ArtifactStore:
    """The store that `ARTIFACT_ROOT` names: a directory, or a URL such as s3://bucket/prefix."""
    root = settings.artifacts
    if "://" in root:
        return ObjectStore.from_url(root, cache=settings.home / "cache", limit=settings.cache_bytes)
    return DirectoryStore(Path(root))


__all__ = [
    "ArtifactStore",
    "DirectoryStore",
    "ObjectStore",
    "StoredFile",
    "Workspace",
    "describe",
    "open_store",
]
