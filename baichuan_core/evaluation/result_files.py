"""Writes result files atomically."""

import os
from pathlib import Path

REPORT_FILE = "evaluation.json"
TABLE_FILE = "evaluation.md"


def write_text_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 file under a temporary name and rename it once it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
