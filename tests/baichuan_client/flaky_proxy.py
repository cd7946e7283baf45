"""A TCP proxy in front of the API that loses answers, whole or in part."""

import select
import socket
import threading
from dataclasses import dataclass

from tests.tcp_proxy import CHUNK, TcpProxy


@dataclass
class _Cut:
    """One loss.

    Attributes:
        request: Beginning of the request whose answer is lost.
        answer_bytes: Bytes of the answer to deliver before the connection is closed.
    """

    request: bytes
    answer_bytes: int


class FlakyProxy(TcpProxy):
    """Forwards everything; after `cut_next` the answer to the next such request is lost after some bytes."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._cuts: list[_Cut] = []
        self._lock = threading.Lock()
        super().__init__()

    @property
    def url(self) -> str:
        """Return the address of the service through this proxy."""
        return f"http://127.0.0.1:{self.port}"

    def cut_next(self, request: str, answer_bytes: int = 0) -> None:
        """Lose one answer; the server receives the request and answers it."""
        self._cuts.append(_Cut(request.encode(), answer_bytes))

    def serve(self, client: socket.socket) -> None:
        """See `TcpProxy.serve`."""
        left: int | None = None
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            while True:
                readable, _, _ = select.select([client, server], [], [])
                source, target = (client, server) if client in readable else (server, client)
                data = source.recv(CHUNK)
                if not data:
                    return
                if source is client:
                    found = self._take(data)
                    left = found.answer_bytes if found else left
                elif left is not None:
                    target.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        self.dropped += 1
                        return
                    continue
                target.sendall(data)

    def _take(self, data: bytes) -> _Cut | None:
        with self._lock:
            for cut in self._cuts:
                if data.startswith(cut.request):
                    self._cuts.remove(cut)
                    return cut
        return None
