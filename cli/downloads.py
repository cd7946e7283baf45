"""Downloads artifacts to this machine, resuming interrupted downloads and checking hashes."""

from pathlib import Path
from typing import Any

from baichuan_client.calls import job_path
from baichuan_client.transfers import Download, place
from cli.client import Client
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.problems import translate_client_errors


def download(client: Client, artifact: Any, directory: Path) -> Path:
    """Download an artifact to its path under `directory`, unless it already exists there; return the local path.

    Raises:
        CommandError: the service rejects the request or does not respond, or the bytes differ from the published ones.
    """
    with translate_client_errors():
        target = place(directory, artifact["path"])
    address = job_path(artifact["job_id"], f"artifacts/{artifact['path']}")
    try:
        return client.fetch(Download(address, target, size=artifact["bytes"], sha256=artifact["sha256"]))
    except OSError as error:
        message = f"cannot write {error.filename or target}: {error.strerror or error}"
        raise CommandError(f"{message}; choose another directory with --download") from error
    except CommandError as error:
        if error.code is not ExitCode.UNREACHABLE:
            raise
        kept = "the bytes received so far are kept; run the command again to resume"
        raise CommandError(f"{error}; {kept}", error.code) from error
