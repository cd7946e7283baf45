"""Checks that a disk has enough free space before anything is written."""

import shutil
from pathlib import Path

from baichuan_core.errors import InsufficientSpaceError

# Space for the tokenizer, the configuration, the index and the file system's metadata.
MARGIN_BYTES = 16 * 2**20


def require_space(target: Path, needed_bytes: int) -> None:
    """Check that the disk of `target` has room for `needed_bytes`; `target` need not exist yet.

    Raises:
        InsufficientSpaceError: There is too little space; the message states the needed and the free bytes.
    """
    existing = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes + MARGIN_BYTES:
        raise InsufficientSpaceError(
            f"the result needs {needed_bytes + MARGIN_BYTES} bytes, but {existing} has {free} bytes free: "
            "free some space or write to another disk"
        )
