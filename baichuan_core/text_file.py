"""Reads users' text files."""

from pathlib import Path

from .errors import DatasetError


def read_text_file(path: Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        DatasetError: The file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path.name} is not UTF-8 (byte {error.start + 1}); save it as UTF-8") from error
