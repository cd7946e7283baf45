"""Rejects the published 4-bit format of Baichuan 2, because transformers cannot read it."""

from os import PathLike
from pathlib import Path

from baichuan_core.errors import CheckpointError
from checkpoint_files import FileError
from checkpoint_files.headers import read_headers
from checkpoint_files.weights import PICKLED, SAFETENSORS, is_published_int4, published_int4_message


def reject_published_int4(directory: object) -> None:
    """Raise CheckpointError if the only weights in a local directory are in the published 4-bit format."""
    if not isinstance(directory, str | PathLike) or any(Path(directory, name).exists() for name in SAFETENSORS):
        return
    file = Path(directory, PICKLED[0])
    try:
        is_published = file.is_file() and is_published_int4(read_headers(file))
    except FileError:
        return  # transformers reports the error itself
    if is_published:
        raise CheckpointError(published_int4_message(file))
