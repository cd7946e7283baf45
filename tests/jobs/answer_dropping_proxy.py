"""A TCP proxy in front of PostgreSQL that delivers a COMMIT and drops its response, like a failing network."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import make_url

from tests.tcp_proxy import CHUNK, TcpProxy


class AnswerDroppingProxy(TcpProxy):
    """Forwards everything; after `drop_next_commit`, the response to the next COMMIT is lost."""

    def __init__(self, database_url: str) -> None:
        self._target = make_url(database_url)
        with psycopg.connect(database_url) as connection:
            self._server = connection.info.host, connection.info.port
        self._armed = threading.Event()
        super().__init__()

    @property
    def url(self) -> str:
        """The URL of the database through this proxy; without TLS, so that messages can be read."""
        query = {"sslmode": "disable", "gssencmode": "disable"}
        return self._target.set(host="127.0.0.1", port=self.port, query=query).render_as_string(hide_password=False)

    def drop_next_commit(self) -> None:
        """Drop one answer."""
        self._armed.set()

    def _connect(self) -> socket.socket:
        host, port = self._server
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def serve(self, client: socket.socket) -> None:
        """See `TcpProxy.serve`."""
        with client, self._connect() as server:
            while True:
                readable, _, _ = select.select([client, server], [], [])
                source, target = (client, server) if client in readable else (server, client)
                data = source.recv(CHUNK)
                if not data:
                    return
                target.sendall(data)
                if source is client and b"COMMIT" in data and self._armed.is_set():
                    self._armed.clear()
                    server.recv(CHUNK)  # the server has committed
                    self.dropped += 1
                    return


@contextmanager
def answer_dropping_proxy(database_url: str) -> Iterator[AnswerDroppingProxy]:
    """A running proxy."""
    proxy = AnswerDroppingProxy(database_url)
    try:
        yield proxy
    finally:
        proxy.close()
