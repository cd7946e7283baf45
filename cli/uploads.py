"""Uploads local files to the service."""

import re
from pathlib import Path
from typing import Any

from cli.client import Client
from cli.errors import CommandError
from cli.exit_codes import ExitCode

FILE_ID_PATTERN = re.compile(r"file-[0-9a-z]{26}")


def upload(client: Client, path: Path, purpose: str) -> Any:
    """Upload a file in chunks, and return the file object.

    Raises:
        CommandError: The path is not a readable file, or the service rejects the file.
    """
    try:
        return client.upload(path, purpose)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", ExitCode.USAGE) from error


def upload_if_local(client: Client, given: str, purpose: str) -> str:
    """Return the id of a file given by id or local path; a local file is uploaded."""
    if FILE_ID_PATTERN.fullmatch(given) and not Path(given).exists():
        return given
    return str(upload(client, Path(given), purpose)["id"])
