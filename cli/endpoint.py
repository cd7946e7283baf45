"""Which service the client commands talk to: options, then the environment, then what `baichuan up` wrote down."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from baichuan_client.endpoint import KEY_VARIABLE, LOOPBACK, URL_VARIABLE, Endpoint, is_sendable, normalize_address
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.private_file import write_private

CLIENT_FILE = "client.json"


def home() -> Path:
    """Return the directory of the embedded deployment; same rule as `jobs.settings`, without its imports."""
    return Path(os.environ.get("BAICHUAN_HOME") or ".baichuan")


def saved(directory: Path) -> Endpoint | None:
    """Return what `baichuan up` wrote into the home directory, if it exists and is readable."""
    try:
        content = json.loads((directory / CLIENT_FILE).read_text(encoding="utf-8"))
        return Endpoint(str(content["url"]), str(content["api_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(directory: Path, endpoint: Endpoint) -> None:
    """Write the endpoint where client commands find it, readable by the user only."""
    content = {"url": endpoint.url, "api_key": endpoint.api_key}
    write_private(directory / CLIENT_FILE, json.dumps(content, indent=2) + "\n")


def resolve(url: str | None, api_key: str | None) -> Endpoint:
    """Return the endpoint to use. A saved key is only sent to the saved address.

    Raises:
        CommandError: there is no address, or no key for it.
    """
    known = saved(home())
    address = url or os.environ.get(URL_VARIABLE) or (known.url if known else None)
    if address is None:
        message = (
            f"no service is known: {home() / CLIENT_FILE} is missing; start one with `baichuan up`, or set BAICHUAN_URL"
        )
        raise CommandError(message, ExitCode.UNREACHABLE)
    address = normalize_address(address)
    if known and _is_same_port(address, known.url):
        address = known.url
    _check_address(address)
    secret = api_key or os.environ.get(KEY_VARIABLE) or (known.api_key if known and known.url == address else None)
    if not secret:
        raise CommandError(f"no API key for {address}: set BAICHUAN_API_KEY or give --key", ExitCode.UNAUTHENTICATED)
    if not is_sendable(secret):
        raise CommandError("the API key has characters that no key has; copy it again", ExitCode.UNAUTHENTICATED)
    return Endpoint(address, secret)


def _check_address(address: str) -> None:
    message = f"{address!r} is not an address: correct --url or BAICHUAN_URL, "
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:  # a port that is no number up to 65535, or brackets that do not match
        raise CommandError(f"{message}which has an error ({error})", ExitCode.USAGE) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError(f"{message}which must be http:// or https:// and a host", ExitCode.USAGE)
    if port == 0:
        raise CommandError(f"{message}whose port must be from 1 to 65535", ExitCode.USAGE)


def _is_same_port(address: str, known: str) -> bool:
    """Whether both are one port of this machine: `localhost` means the address that `baichuan up` listens on."""
    try:
        places = [(parts.scheme, parts.port, parts.path) for parts in (urlsplit(address), urlsplit(known))]
    except ValueError:  # a port that is not a number, or brackets that do not match
        return False
    return places[0] == places[1] and all(urlsplit(url).hostname in LOOPBACK for url in (address, known))
