"""If the response to a COMMIT is lost, a submission creates one job, and nothing else runs twice."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from jobs.database import Database, is_rolled_back
from jobs.database.batching import CallBatcher
from jobs.errors import OutcomeUnknownError
from jobs.records import JobFilter, JobRecord
from jobs.service import jobs, submission
from jobs.service.submission import Submission, SubmittedJob, submit
from tests.jobs.answer_dropping_proxy import answer_dropping_proxy
from tests.jobs.conftest import Deployment


class LosingDatabase:
    """Begins transactions on a database, and can lose the response to the next commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lost = 0
        self.lose_next = False

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See `Database.writing`."""
        with self._database.writing() as connection:
            yield connection
        if self.lose_next:
            self.lose_next, self.lost = False, self.lost + 1
            raise OperationalError("COMMIT", None, ConnectionError("server closed the connection"))


def run_calls(batcher: CallBatcher, *calls: Callable[[CallBatcher], Awaitable[Any]]) -> list[Any]:
    """Return the results of calls that wait together, including errors."""

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(call(batcher) for call in calls), return_exceptions=True)

    try:
        return asyncio.run(scenario())
    finally:
        batcher.close()


def stored(deployment: Deployment) -> list[JobRecord]:
    """All jobs of the project."""
    with deployment.database.reading() as connection:
        return jobs.list_page(connection, deployment.project_id, JobFilter(), after=None, limit=100)


def submitting(*submissions: Submission) -> list[Callable[[CallBatcher], Awaitable[Any]]]:
    """Calls that submit jobs."""
    return [lambda batcher, each=each: batcher.call(submit, each) for each in submissions]  # type: ignore[misc]


def test_a_submission_makes_one_job(deployment: Deployment) -> None:
    losing = LosingDatabase(deployment.database)
    losing.lose_next = True
    batcher = CallBatcher("test", losing.writing, repeatable=[submit])
    submissions = [deployment.submission(), deployment.submission(key="k"), deployment.submission(output_model="made")]
    answers = run_calls(batcher, *submitting(*submissions))
    assert losing.lost == 1
    assert all(isinstance(answer, SubmittedJob) and answer.created for answer in answers), answers
    assert {answer.job.id for answer in answers} == {job.id for job in stored(deployment)}
    assert len(stored(deployment)) == 3


def test_the_outcome_of_calls_that_may_not_run_twice_is_reported_as_unknown(deployment: Deployment) -> None:
    losing = LosingDatabase(deployment.database)
    losing.lose_next = True
    calls = 0

    def count(_connection: Connection) -> None:
        nonlocal calls
        calls += 1

    batcher = CallBatcher("test", losing.writing, repeatable=[submit])
    (answer,) = run_calls(batcher, lambda batcher: batcher.run(count))
    assert isinstance(answer, OutcomeUnknownError)
    assert calls == 1


def test_the_outcome_of_reads_is_never_unknown(deployment: Deployment) -> None:
    losing = LosingDatabase(deployment.database)
    losing.lose_next = True
    batcher = CallBatcher("test", losing.writing, read_only=True)
    (answer,) = run_calls(
        batcher, lambda batcher: batcher.run(lambda connection: connection.execute(sa.text("SELECT 1")))
    )
    assert isinstance(answer, OperationalError)


@pytest.mark.integration
@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_network_that_drops_the_response(deployment: Deployment) -> None:
    with answer_dropping_proxy(deployment.settings.database_url) as proxy:
        database = Database(proxy.url)
        with database.reading() as connection:
            connection.execute(sa.text("SELECT 1"))
        proxy.drop_next_commit()
        batcher = CallBatcher("test", database.writing, repeatable=[submit])
        (answer,) = run_calls(batcher, *submitting(deployment.submission()))
        assert proxy.dropped == 1
        assert isinstance(answer, SubmittedJob), answer
        assert [job.id for job in stored(deployment)] == [answer.job.id]
        database.close()


def test_submitting_a_committed_request_again_finds_its_job(deployment: Deployment) -> None:
    wanted = [deployment.submission(output_model="made"), deployment.submission()]
    answers = []
    for _ in range(2):
        with deployment.database.writing() as connection:
            answers.append(submission.submit(connection, wanted))
    assert answers[0] == answers[1]
    assert len(stored(deployment)) == 2


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_READONLY_DBMOVED", "SQLITE_BUSY"])
def test_a_failed_commit_of_sqlite_on_a_full_disk_is_known(name: str) -> None:
    cause = sqlite3.OperationalError("database or disk is full")
    cause.sqlite_errorname = name
    assert is_rolled_back(OperationalError("COMMIT", None, cause))
    cause.sqlite_errorname = "SQLITE_IOERR_WRITE"
    assert not is_rolled_back(OperationalError("COMMIT", None, cause))
