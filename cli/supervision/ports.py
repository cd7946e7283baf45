"""Chooses the TCP port to serve on."""

import contextlib
import socket

from cli.errors import CommandError

DEFAULT_PORT = 8000
MAX_PORT_ATTEMPTS = 100
BACKLOG = 2048


def open_listening_socket(host: str, wanted: int | None) -> socket.socket:
    """Return a listening socket on the requested port, or else on 8000 or the next free port.

    `up` keeps the socket open for the API, which inherits it. No other process can therefore take the port while the
    API restarts, and requests wait until it is running again.

    Raises:
        CommandError: the wanted port, or every port tried, is taken.
    """
    if wanted is not None:
        try:
            return _listen_on_port(host, wanted)
        except OSError as error:
            reason = f"{error.strerror}; pass another --port, or omit it to use a free one"
            raise CommandError(f"port {wanted} on {host} cannot be used: {reason}") from error
    for port in range(DEFAULT_PORT, DEFAULT_PORT + MAX_PORT_ATTEMPTS):
        with contextlib.suppress(OSError):
            return _listen_on_port(host, port)
    last = DEFAULT_PORT + MAX_PORT_ATTEMPTS - 1
    raise CommandError(f"no port from {DEFAULT_PORT} to {last} on {host} can be used; choose another with --port")


def _listen_on_port(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def find_free_port() -> int:
    """Return a free port on the loopback address."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
