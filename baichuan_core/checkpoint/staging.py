"""Makes a directory appear whole or not at all."""

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
    """A directory beside `output` to write into; it takes the name `output` when the block ends well.

    Files reach the disk before the name does. After an error the staging directory is removed, and what a
    killed run left behind is removed by the next one to the same place.

    Raises:
        CheckpointError: `output` exists and is no empty directory, or nothing can be written beside it.
    """
    output = output.resolve()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise CheckpointError(f"{output} exists and is not empty: name a new directory for the result")
    make_directory(output.parent)
    prefix = f".{output.name}.partial-"
    _remove_abandoned(output.parent, prefix)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
    lock = _lock(staging)
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
    """Make a directory that results can be written to, and those above it.

    Raises:
        CheckpointError: It cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be made ({error.strerror}): name another place") from error
    if not os.access(directory, os.W_OK):
        raise CheckpointError(f"{directory} cannot be written to: name another place")


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


def _lock(directory: Path) -> int | None:
    """Hold a directory until the process ends; None if a living process holds it or nobody can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(parent: Path, prefix: str) -> None:
    for left in parent.iterdir():
        if left.name.startswith(prefix) and (lock := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
