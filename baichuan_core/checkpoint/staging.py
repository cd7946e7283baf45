"""Writes output directories atomically: a directory appears either complete or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baichuan_core.errors import CheckpointError


@contextmanager
def staged_output(output: Path) -> Iterator[Path]:
    """Yield a staging directory next to `output` that is renamed to `output` if the `with` block succeeds.

    All files are synced to disk before the rename. The staging directory is removed after an error; one that a killed
    run left behind is removed by the next run with the same output.

    Raises:
        CheckpointError: `output` exists and is not an empty directory, or its parent is not writable.
    """
    output = output.resolve()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise CheckpointError(f"{output} exists and is not an empty directory: choose a new directory for the result")
    make_directory(output.parent)
    prefix = f".{output.name}.partial-"
    _remove_abandoned_directories(output.parent, prefix)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
    lock = _try_lock(staging)
    try:
        yield staging
        _publish(staging, output)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def make_directory(directory: Path) -> None:
    """Create a directory for results, including its parents.

    Raises:
        CheckpointError: The directory cannot be created or is not writable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be created ({error.strerror}): choose another directory") from error
    if not os.access(directory, os.W_OK):
        raise CheckpointError(f"{directory} is not writable: choose another directory")


def _publish(staging: Path, output: Path) -> None:
    staging.chmod(0o755)
    for path in staging.rglob("*"):
        _sync(path)
    _sync(staging)
    staging.rename(output)
    _sync(output.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(directory: Path) -> int | None:
    """Lock a directory until the returned descriptor is closed; return None if the directory cannot be locked."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a running process holds the lock, or the file system does not support locks
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned_directories(parent: Path, prefix: str) -> None:
    for path in parent.iterdir():
        if path.name.startswith(prefix) and (lock := _try_lock(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
