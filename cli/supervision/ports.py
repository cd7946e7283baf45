"""Which TCP port to serve on."""

import contextlib
import socket

from cli.errors import CommandError

DEFAULT_PORT = 8000
TRIED = 100


def choose_port(host: str, wanted: int | None) -> int:
    """The wanted port, else 8000 or the next one that is free.

    Raises:
        CommandError: the wanted port, or every port tried, is taken.
    """
    if wanted is not None:
        if not is_free(host, wanted):
            message = (
                f"port {wanted} of {host} is in use or not allowed; give another --port, or none to take a free one"
            )
            raise CommandError(message)
        return wanted
    for port in range(DEFAULT_PORT, DEFAULT_PORT + TRIED):
        if is_free(host, port):
            return port
    last = DEFAULT_PORT + TRIED - 1
    raise CommandError(f"ports {DEFAULT_PORT} to {last} of {host} are all in use; give a free one with --port")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def unused_port() -> int:
    """Any free port of the loopback address."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
