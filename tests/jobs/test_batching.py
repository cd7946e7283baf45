"""Group commit: each caller gets its own result, and a failing call does not affect the others."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import Database
from jobs.database.batching import CallBatcher
from jobs.errors import DomainError, NotFoundError


@pytest.fixture
def table(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'lane.sqlite3'}")
    with database.writing() as connection:
        connection.execute(sa.text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
    return database


def store(connection: Connection, numbers: Sequence[int]) -> list[int | DomainError]:
    """Insert all numbers; return the double of each, or an error for negative ones."""
    good = [number for number in numbers if number >= 0]
    if good:
        connection.execute(sa.text("INSERT INTO numbers VALUES (:n)"), [{"n": number} for number in good])
    return [number * 2 if number >= 0 else NotFoundError(f"{number} is negative") for number in numbers]


def count(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM numbers")).scalar_one())


def test_each_call_gets_its_own_answer_after_the_commit(table: Database) -> None:
    commits: list[int] = []

    async def scenario() -> list[int | BaseException]:
        batcher = CallBatcher("test", table.writing, after_commit=lambda: commits.append(count(table)))
        answers = await asyncio.gather(*(batcher.call(store, n) for n in [*range(200), -1]), return_exceptions=True)
        batcher.close()
        return answers

    answers = asyncio.run(scenario())
    assert answers[:200] == [n * 2 for n in range(200)]
    assert isinstance(answers[200], NotFoundError)
    assert commits[-1] == 200
    assert len(commits) < 200


def test_a_batch_of_quiet_operations_announces_nothing(table: Database) -> None:
    commits: list[int] = []

    async def scenario() -> None:
        batcher = CallBatcher("test", table.writing, after_commit=lambda: commits.append(count(table)), quiet=[store])
        await batcher.call(store, 1)
        await asyncio.gather(batcher.call(store, 2), batcher.run(lambda connection: store(connection, [3])))
        batcher.close()

    asyncio.run(scenario())
    assert commits == [3]


def test_a_call_that_breaks_the_batch_fails_alone(table: Database) -> None:
    async def scenario() -> list[int | BaseException]:
        batcher = CallBatcher("test", table.writing)
        answers = await asyncio.gather(*(batcher.call(store, n) for n in [1, 2, 2, 3]), return_exceptions=True)
        batcher.close()
        return answers

    answers = asyncio.run(scenario())
    assert answers[:2] == [2, 4]
    assert isinstance(answers[2], sa.exc.IntegrityError)
    assert answers[3] == 6
    assert count(table) == 3


def test_a_domain_error_undoes_what_its_function_had_written(table: Database) -> None:
    def write_then_refuse(connection: Connection) -> None:
        store(connection, [7])
        raise NotFoundError("changed my mind")

    async def scenario() -> None:
        batcher = CallBatcher("test", table.writing)
        kept, refused = await asyncio.gather(
            batcher.run(lambda connection: store(connection, [8])),
            batcher.run(write_then_refuse),
            return_exceptions=True,
        )
        assert kept == [16]
        assert isinstance(refused, NotFoundError)
        batcher.close()

    asyncio.run(scenario())
    assert count(table) == 1


def test_closing_completes_earlier_calls(table: Database) -> None:
    async def scenario() -> int:
        batcher = CallBatcher("test", table.writing)
        asked = asyncio.ensure_future(batcher.call(store, 5))
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        return await asked

    assert asyncio.run(scenario()) == 10


class FailingDatabase:
    """Begins transactions until it fails; counts those that fail."""

    def __init__(self, database: Database, error: Exception) -> None:
        self._database = database
        self._error = error
        self.failing = False
        self.failures = 0

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See `Database.writing`."""
        if self.failing:
            self.failures += 1
            raise self._error
        with self._database.writing() as connection:
            yield connection


def failures_of(database: FailingDatabase, calls: int) -> list[object]:
    """Return the results of calls that wait together while the database fails."""

    async def scenario() -> list[object]:
        batcher = CallBatcher("test", database.writing)
        taken, released = threading.Event(), threading.Event()

        def occupy(_connection: Connection) -> None:
            taken.set()
            released.wait()

        first = asyncio.ensure_future(batcher.run(occupy))
        await asyncio.to_thread(taken.wait)
        waiting = asyncio.gather(*(batcher.call(store, n) for n in range(calls)), return_exceptions=True)
        await asyncio.sleep(0)
        database.failing = True
        released.set()
        await first
        answers = await waiting
        await asyncio.to_thread(batcher.close)
        return list(answers)

    return asyncio.run(scenario())


def test_an_outage_fails_all_waiting_calls_immediately(table: Database) -> None:
    outage = sa.exc.OperationalError("BEGIN", None, ConnectionError("connection timed out"))
    database = FailingDatabase(table, outage)
    assert failures_of(database, 200) == [outage] * 200
    assert database.failures == 1


def test_a_timeout_of_one_statement_is_no_outage_but_not_waited_for_200_times(
    table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.database.batching.ONE_BY_ONE_LIMIT_SECONDS", 0)
    timeout = sa.exc.OperationalError("UPDATE", None, psycopg.errors.LockNotAvailable("lock timeout"))
    database = FailingDatabase(table, timeout)
    assert failures_of(database, 200) == [timeout] * 200
    assert database.failures == 2  # the batch, and the first call alone


@pytest.mark.parametrize("error", [psycopg.errors.LockNotAvailable, psycopg.errors.ProgramLimitExceeded])
def test_a_failing_call_does_not_affect_others(table: Database, error: type[psycopg.OperationalError]) -> None:
    def store_or_fail(connection: Connection, numbers: Sequence[int]) -> list[int | DomainError]:
        if 2 in numbers:
            raise sa.exc.OperationalError("INSERT", None, error())
        return store(connection, numbers)

    async def scenario() -> list[int | BaseException]:
        batcher = CallBatcher("test", table.writing)
        answers = await asyncio.gather(*(batcher.call(store_or_fail, n) for n in [1, 2, 3]), return_exceptions=True)
        batcher.close()
        return answers

    first, failed, last = asyncio.run(scenario())
    assert (first, last) == (2, 6)
    assert isinstance(failed, sa.exc.OperationalError)
