"""Artifacts on their way to this machine: resumed where an earlier download stopped, and checked by their hash."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from cli.addresses import job_address
from cli.client import Client
from cli.errors import CommandError
from cli.problems import refusal

PART = ".part"
CHUNK = 2**20


def download(client: Client, artifact: Any, directory: Path) -> Path:
    """Fetch an artifact to `directory`/its path, unless it is there already; returns where it is.

    Raises:
        CommandError: the service refuses or does not answer, or the bytes are not those that were published.
    """
    target = _place(directory, artifact["path"])
    try:
        return _complete(client, artifact, target)
    except OSError as error:
        message = f"cannot write {error.filename or target}: {error.strerror or error}"
        raise CommandError(f"{message}; choose another directory with --download") from error


def _complete(client: Client, artifact: Any, target: Path) -> Path:
    if target.exists() and target.stat().st_size == artifact["bytes"] and _sha256(target) == artifact["sha256"]:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    if part.exists() and part.stat().st_size > artifact["bytes"]:
        part.unlink()
    if not part.exists() or part.stat().st_size < artifact["bytes"] or artifact["bytes"] == 0:
        _fetch(client, artifact, part)
    if (found := _sha256(part)) != artifact["sha256"]:
        part.unlink()
        message = f"{artifact['path']} arrived with sha256 {found} instead of {artifact['sha256']}; download it again"
        raise CommandError(message)
    part.replace(target)
    return target


def _fetch(client: Client, artifact: Any, part: Path) -> None:
    """Append what is missing; the entity tag ensures that all parts are of the same file."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": f'"{artifact["sha256"]}"'} if have else {}
    address = job_address(artifact["job_id"], f"artifacts/{artifact['path']}")
    try:
        with client.stream(address, headers) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            with part.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_bytes(CHUNK):
                    file.write(chunk)
    except httpx.RequestError as error:
        failure = client.unreachable(error)
        raise CommandError(
            f"{failure}; what arrived is kept: the same command goes on from there", failure.code
        ) from error


def _place(directory: Path, path: str) -> Path:
    """Return the local path of an artifact, which is always inside the directory, whatever its name is."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise CommandError(f"the artifact path {path!r} would lead out of {directory}; nothing was written")
    return directory / pure


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
