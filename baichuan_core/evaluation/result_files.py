"""Writing results, each of which appears whole or not at all."""

import os
from pathlib import Path

REPORT = "evaluation.json"
TABLE = "evaluation.md"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file under another name, and give it its own when it is complete."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
