"""Looks for room on the disk before anything is written."""

import shutil
from pathlib import Path

from baichuan_core.errors import InsufficientSpaceError

# Tokenizer, configuration, index and the file system's own needs.
MARGIN_BYTES = 16 * 2**20


def require_space(target: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk under `target` (which need not exist yet) cannot hold.

    Raises:
        InsufficientSpaceError: The message says how many bytes are needed and free.
    """
    existing = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes + MARGIN_BYTES:
        raise InsufficientSpaceError(
            f"the result needs {needed_bytes + MARGIN_BYTES} bytes and {existing} has {free} free: "
            "free some space or write to another disk"
        )
