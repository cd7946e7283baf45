"""Finds the service for client commands: in options, then the environment, then the file that `baichuan up` wrote."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from baichuan_client.endpoint import (
    KEY_VARIABLE,
    LOOPBACK_HOSTS,
    URL_VARIABLE,
    Endpoint,
    is_valid_header_value,
    normalize_address,
)
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.private_file import write_private_file

CLIENT_FILE_NAME = "client.json"


def get_home_directory() -> Path:
    """Return the directory of the embedded deployment, as `jobs.settings` determines it, but without its imports."""
    return Path(os.environ.get("BAICHUAN_HOME") or ".baichuan")


def load_saved_endpoint(directory: Path) -> Endpoint | None:
    """Return the endpoint that `baichuan up` wrote to the home directory, if the file exists and is readable."""
    try:
        content = json.loads((directory / CLIENT_FILE_NAME).read_text(encoding="utf-8"))
        return Endpoint(str(content["url"]), str(content["api_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_endpoint(directory: Path, endpoint: Endpoint) -> None:
    """Write the endpoint to the file that client commands read, accessible only to this user."""
    content = {"url": endpoint.url, "api_key": endpoint.api_key}
    write_private_file(directory / CLIENT_FILE_NAME, json.dumps(content, indent=2) + "\n")


def resolve_endpoint(url: str | None, api_key: str | None) -> Endpoint:
    """Return the endpoint to use. A saved key is only sent to the saved address.

    Raises:
        CommandError: there is no address, or no key for it.
    """
    known = load_saved_endpoint(get_home_directory())
    address = url or os.environ.get(URL_VARIABLE) or (known.url if known else None)
    if address is None:
        path = get_home_directory() / CLIENT_FILE_NAME
        message = f"no service found: {path} is missing; start one with `baichuan up`, or set BAICHUAN_URL"
        raise CommandError(message, ExitCode.UNREACHABLE)
    address = normalize_address(address)
    if known and _is_same_port(address, known.url):
        address = known.url
    _check_address(address)
    secret = api_key or os.environ.get(KEY_VARIABLE) or (known.api_key if known and known.url == address else None)
    if not secret:
        raise CommandError(f"no API key for {address}: set BAICHUAN_API_KEY or pass --key", ExitCode.UNAUTHENTICATED)
    if not is_valid_header_value(secret):
        raise CommandError("the API key contains invalid characters; copy it again", ExitCode.UNAUTHENTICATED)
    return Endpoint(address, secret)


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:  # the port is not a number up to 65535, or an IPv6 address lacks a bracket
        raise _make_address_error(address, str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _make_address_error(address, "it must be an http:// or https:// URL with a host")
    if port == 0:
        raise _make_address_error(address, "the port must be from 1 to 65535")


def _make_address_error(address: str, problem: str) -> CommandError:
    return CommandError(f"{address!r} is not a valid address: {problem}; correct --url or BAICHUAN_URL", ExitCode.USAGE)


def _is_same_port(address: str, known: str) -> bool:
    """Return whether both addresses refer to the same port on this machine, such as `localhost` and 127.0.0.1."""
    try:
        places = [(parts.scheme, parts.port, parts.path) for parts in (urlsplit(address), urlsplit(known))]
    except ValueError:  # the port is not a number up to 65535, or an IPv6 address lacks a bracket
        return False
    return places[0] == places[1] and all(urlsplit(url).hostname in LOOPBACK_HOSTS for url in (address, known))
