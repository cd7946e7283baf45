"""Translates the errors of `checkpoint_files` into the engine's errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from baichuan_core.errors import CheckpointError, UnsupportedError
from checkpoint_files import FileError, UnsupportedFileError


@contextmanager
def translate_file_errors() -> Iterator[None]:
    """Convert a `FileError` to a `CheckpointError`, and an `UnsupportedFileError` to an `UnsupportedError`."""
    try:
        yield
    except UnsupportedFileError as fault:
        raise UnsupportedError(str(fault)) from fault
    except FileError as fault:
        raise CheckpointError(str(fault)) from fault
