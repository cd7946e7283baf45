"""A TCP proxy for tests, whose subclasses simulate network failures."""

import socket
import threading
from abc import ABC, abstractmethod

CHUNK = 65_536


class TcpProxy(ABC):
    """Listens on a free port of 127.0.0.1 and serves each connection in a thread.

    Attributes:
        dropped: How many answers were dropped.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    @abstractmethod
    def serve(self, client: socket.socket) -> None:
        """Serve one connection until it ends."""

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[client], daemon=True).start()
