"""The address where the first node of a multi-node attempt waits for the other nodes."""

import socket
from urllib.parse import urlsplit

DISCARD_PORT = 9  # port of the discard service; nothing is sent to it


def choose_address(host: str, redis_url: str) -> str:
    """Return "host:port" with a port that is currently free.

    Args:
        host: Address of this machine that the other machines can reach; if empty, the address of the interface that
            leads to Redis is used, because all workers can reach Redis.
        redis_url: URL of the Redis broker.
    """
    host = host or _find_local_address(urlsplit(redis_url).hostname or "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{host}:{probe.getsockname()[1]}"


def _find_local_address(target: str) -> str:
    """Return this machine's address on the interface that leads to `target`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, DISCARD_PORT))  # sends nothing, only selects the route
        return str(probe.getsockname()[0])
