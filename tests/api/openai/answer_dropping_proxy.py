"""A TCP proxy in front of the API that delivers a request and drops its answer, as a failing network does."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

CHUNK = 65_536


class AnswerDroppingProxy:
    """Forwards everything; after `drop_next_answer` one answer is dropped, and its connection closed."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._server = (address.hostname or "", address.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._left = 0
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The API's URL through this proxy."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def drop_next_answers(self, count: int = 1) -> None:
        """Drop the next answers."""
        self._left = count

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            while True:
                readable, _, _ = select.select([client, server], [], [])
                source, target = (server, client) if server in readable else (client, server)
                data = source.recv(CHUNK)
                if not data:
                    return
                if source is server and self._left:  # it answers, so it has committed
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
