"""Writes files that contain secrets."""

import os
from pathlib import Path


def write_private_file(path: Path, content: str) -> None:
    """Write a file with mode 0600 atomically, so that no reader sees a partial file and only the user can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    temporary.replace(path)
