"""Access to the database: synchronous SQLAlchemy connections, in short transactions."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.dialects.postgresql import Insert as PostgreSQLInsert
from sqlalchemy.dialects.sqlite import Insert as SQLiteInsert
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.database.file import DatabaseFile
from jobs.database.journal import begin_journal, track_savepoints, write_journal
from jobs.database.tables import Base

BUSY_TIMEOUT_MS = 5_000
# PostgreSQL terminates the session of a client that idles in a transaction; psycopg reports this as an InternalError.
OUTAGE_ERRORS = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
# SQLSTATE classes of errors that concern only one statement: lock conflicts and timeouts, deadlocks, and
# exceeded limits (https://www.postgresql.org/docs/current/errcodes-appendix.html).
STATEMENT_ERROR_CLASSES = ("40", "54", "55")
STATEMENT_TIMEOUT_CODE = "57014"
# A server that disappears silently, or a client that hangs in the middle of a transaction, must not block others
# forever. DATABASE_URL can override each of these options.
POSTGRESQL_OPTIONS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
    "options": f"-c lock_timeout={BUSY_TIMEOUT_MS} -c idle_in_transaction_session_timeout=15000",
}


class Database:
    """Connections to SQLite (WAL) or PostgreSQL.

    On SQLite a writing transaction takes the write lock at once (`BEGIN IMMEDIATE`): if it first read and then
    wrote, it would fail with "database is locked" under load.

    Attributes:
        on_news: Called after a commit with the projects whose feeds have grown; must not block.
    """

    def __init__(self, url: str) -> None:
        self.on_news: Callable[[frozenset[str]], None] = lambda _projects: None
        self.url = sa.make_url(_normalize_url(url))
        if self.url.get_backend_name() == "sqlite" and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        postgresql = self.url.get_backend_name() == "postgresql"
        self.engine = sa.create_engine(
            self.url,
            pool_pre_ping=postgresql,
            hide_parameters=True,  # parameters contain prompts, which must not appear in logged errors
            connect_args={k: v for k, v in POSTGRESQL_OPTIONS.items() if postgresql and k not in self.url.query},
        )
        track_savepoints(self.engine)
        self._file: DatabaseFile | None = None
        if not postgresql:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
            if self.url.database:
                self._file = DatabaseFile(Path(self.url.database))
                event.listen(self.engine, "do_connect", self._file.require_unchanged_before_connecting)
                event.listen(self.engine, "connect", self._file.remember_file)
                event.listen(self.engine, "commit", self._file.require_unchanged)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a write transaction; it commits at the end of the block and rolls back if the block raises."""
        with self.engine.connect().execution_options(writes=True) as connection:
            with connection.begin():
                begin_journal(connection)
                yield connection
                told = write_journal(connection)
            if told:
                self.on_news(told)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read-only transaction."""
        with self.engine.connect().execution_options(writes=False) as connection, connection.begin():
            yield connection

    def migrate(self) -> None:
        """Upgrade the schema to the newest revision."""
        with self.engine.connect() as connection:
            command.upgrade(build_alembic_config(connection), "head")

    def is_migrated(self) -> bool:
        """Whether the schema is at the newest revision."""
        with self.reading() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        return current == ScriptDirectory.from_config(build_alembic_config()).get_current_head()

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def now_ms(connection: Connection) -> int:
    """Return the database's time in milliseconds since the epoch, so that leases do not depend on local clocks."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1_000_000
    return int(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp()) * 1000")).scalar_one())


def is_outage(error: BaseException) -> bool:
    """Whether an error means that the database is unusable, so that any other call would fail as well."""
    code = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    return (
        isinstance(error, OUTAGE_ERRORS)
        and code != STATEMENT_TIMEOUT_CODE
        and not code.startswith(STATEMENT_ERROR_CLASSES)
    )


def is_rolled_back(error: Exception) -> bool:
    """Whether a transaction whose commit failed with this error was certainly rolled back.

    That is certain if SQLite could not write (disk full, read-only or locked), or if PostgreSQL reported an error in a
    single statement, such as a lock timeout.
    """
    if isinstance(error, OUTAGE_ERRORS) and not is_outage(error):
        return True
    code = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return code.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_LOCKED"))


def insert(connection: Connection, table: type[Base]) -> SQLiteInsert | PostgreSQLInsert:
    """Return an INSERT that supports ON CONFLICT, in the connection's dialect."""
    return SQLiteInsert(table) if connection.dialect.name == "sqlite" else PostgreSQLInsert(table)


def build_alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration for the packaged migrations."""
    config = Config()
    config.set_main_option("script_location", "migrations:")
    config.attributes["connection"] = connection
    return config


def _normalize_url(url: str) -> str:
    """Accept the usual spellings of a PostgreSQL URL and use psycopg 3 for all of them."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in _begin_sqlite, not in the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
