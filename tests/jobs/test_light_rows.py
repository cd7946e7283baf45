"""Hot paths read neither specs nor results, however large they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database import Database, now_ms
from jobs.records import JobDetails, JobFilter
from jobs.repository import jobs as repository
from jobs.service import jobs, keys
from jobs.service.attempts import peek_directive
from jobs.service.jobs import JobKey
from jobs.service.submission import Submission, SubmittedJob, submit
from jobs.specs import GenerateSpec, StoredGenerateSpec, split_off_input
from jobs.state import Event
from tests.jobs.conftest import Deployment
from tests.jobs.pool import add_worker, dispatch_to, hold, start_on

PROMPTS = ["x" * 5000, "y"]


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The SQL that is executed within the block."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(database.engine, "before_cursor_execute", note)


def read_list(connection: Connection, deployment: Deployment, _job: JobDetails) -> None:
    assert jobs.list_page(connection, deployment.project_id, JobFilter(), after=None, limit=10)


def poll_events(connection: Connection, deployment: Deployment, job: JobDetails) -> None:
    key = JobKey(deployment.project_id, job.id)
    assert jobs.find_records(connection, [key])
    assert jobs.list_events(connection, key, after=0, limit=10)
    assert jobs.list_attempts(connection, key) == []
    assert jobs.list_artifacts(connection, key, after=None, limit=10) == []


def decide(connection: Connection, _deployment: Deployment, _job: JobDetails) -> None:
    assert repository.list_queued(connection, now=now_ms(connection), limit=10)


def send(connection: Connection, deployment: Deployment, job: JobDetails) -> None:
    assert dispatch_to(connection, job.id, "w1", deployment.settings)


def authenticate(connection: Connection, _deployment: Deployment, _job: JobDetails) -> None:
    assert keys.authenticate(connection, ["unknown"])


@pytest.mark.parametrize("operation", [read_list, poll_events, decide, send, authenticate])
def test_hot_paths_of_waiting_jobs_read_no_spec(
    deployment: Deployment, operation: Callable[[Connection, Deployment, JobDetails], None]
) -> None:
    job = deployment.submit(kind="generate", prompts=PROMPTS)
    with statements(deployment.database) as seen, deployment.database.writing() as connection:
        operation(connection, deployment, job)
    assert seen
    assert not [statement for statement in seen if "jobs.spec" in statement or "jobs.result" in statement]


def test_leases_read_no_spec(deployment: Deployment) -> None:
    job = deployment.submit(kind="generate", prompts=PROMPTS)
    with deployment.database.writing() as connection:
        attempt = start_on(connection, job.id, "w1", deployment.settings)
    with statements(deployment.database) as seen:
        with deployment.database.writing() as connection:
            peek_directive(connection, attempt, "w1")
            hold(connection, attempt, "w1", deployment.settings).renew({"fraction": 0.5, "stage": "a", "metrics": {}})
        with deployment.database.writing() as connection:
            hold(connection, attempt, "w1", deployment.settings).end(Event.RELEASE)
    assert [statement for statement in seen if "jobs.state" in statement]
    assert not [statement for statement in seen if "jobs.spec" in statement or "jobs.result" in statement]


def test_a_spec_with_separate_input_is_required_by_its_lengths_and_claimed_without_it(deployment: Deployment) -> None:
    spec = GenerateSpec(kind="generate", model="base", prompts=PROMPTS, labels={"team": "a"})
    separated = split_off_input(spec)
    light = Submission(deployment.project_id, spec, "once", separated.spec)
    whole = replace(light, idempotency_key=None, stored_spec=None, job_id="job-whole")
    with deployment.database.writing() as connection:
        first, second = submit(connection, [light, whole])
        again = submit(connection, [replace(whole, idempotency_key="once", job_id="job-again")])[0]
    assert isinstance(first, SubmittedJob)
    assert isinstance(second, SubmittedJob)
    assert isinstance(again, SubmittedJob)
    assert first.job.requirement == second.job.requirement
    assert (again.job, again.created) == (first.job, False)
    assert (first.job.source_model, first.job.labels, first.job.spec["prompts"]) == ("base", {"team": "a"}, None)
    claim = claimed_spec(deployment, first.job)
    assert claim == separated.spec
    assert claimed_spec(deployment, second.job).prompts == PROMPTS


def claimed_spec(deployment: Deployment, job: JobDetails) -> StoredGenerateSpec:
    """The spec of the claim of a job's first attempt."""
    add_worker(deployment.database, "w1", slots=2)
    with deployment.database.writing() as connection:
        attempt = start_on(connection, job.id, "w1", deployment.settings)
        claim = hold(connection, attempt, "w1", deployment.settings).build_claim()
    assert claim is not None
    assert isinstance(claim.spec, StoredGenerateSpec)
    return claim.spec
