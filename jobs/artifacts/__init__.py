"""The store for results and uploads: a directory (local or shared), or an object store."""

import os
from collections.abc import Mapping
from pathlib import Path

from jobs.artifacts.directory import DirectoryStore
from jobs.artifacts.objects import ObjectStore
from jobs.artifacts.store import ArtifactStore, StoredFile, describe_files
from jobs.artifacts.workspace import Workspace, input_key, published_model_key
from jobs.settings import Settings


def open_store(settings: Settings) -> ArtifactStore:
    """Open the store that `ARTIFACT_ROOT` names: a directory, or a URL such as s3://bucket/prefix."""
    return open_store_at(
        settings.effective_artifact_root, cache=get_cache_folder(settings), cache_bytes=settings.cache_bytes
    )


def get_cache_folder(settings: Settings) -> Path:
    """Return the folder for local copies of an object store's files."""
    return settings.home / "cache"


def open_store_at(
    root: str, *, cache: Path, cache_bytes: int, variables: Mapping[str, str] | None = None
) -> ArtifactStore:
    """Open the store at `root`.

    Args:
        root: A directory, or a URL such as s3://bucket/prefix.
        cache: Folder for local copies of an object store's files.
        cache_bytes: Maximum size of these copies.
        variables: Environment variables that are set only while an object store is opened, because its library
            reads credentials only from there.
    """
    if "://" not in root:
        return DirectoryStore(Path(root))
    os.environ.update(variables or {})
    try:
        return ObjectStore.from_url(root, cache=cache, limit=cache_bytes)
    finally:
        for name in variables or {}:
            os.environ.pop(name, None)


__all__ = [
    "ArtifactStore",
    "DirectoryStore",
    "ObjectStore",
    "StoredFile",
    "Workspace",
    "describe_files",
    "get_cache_folder",
    "input_key",
    "open_store",
    "open_store_at",
    "published_model_key",
]
