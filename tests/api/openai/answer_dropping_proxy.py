"""A TCP proxy in front of the API that delivers a request and drops its response, like a failing network."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.tcp_proxy import CHUNK, TcpProxy


class AnswerDroppingProxy(TcpProxy):
    """Forwards everything; after `drop_next_answers`, it drops responses and closes their connections."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._server = (address.hostname or "", address.port or 0)
        self._left = 0
        super().__init__()

    @property
    def url(self) -> str:
        """The API's URL through this proxy."""
        return f"http://127.0.0.1:{self.port}"

    def drop_next_answers(self, count: int = 1) -> None:
        """Drop the next answers."""
        self._left = count

    def serve(self, client: socket.socket) -> None:
        """See `TcpProxy.serve`."""
        with client, socket.create_connection(self._server) as server:
            while True:
                readable, _, _ = select.select([client, server], [], [])
                source, target = (server, client) if server in readable else (client, server)
                data = source.recv(CHUNK)
                if not data:
                    return
                if source is server and self._left:  # the server has responded, so it has committed
                    self._left -= 1
                    self.dropped += 1
                    return
                target.sendall(data)


@contextmanager
def answer_dropping_proxy(url: str) -> Iterator[AnswerDroppingProxy]:
    """A running proxy."""
    proxy = AnswerDroppingProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
