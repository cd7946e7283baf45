"""Leases through outages of the database."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.records import ModelRecord
from jobs.repository import models
from jobs.service import attempts, jobs, keys, metrics, submission
from jobs.service.attempts import Directive
from jobs.service.claims import Claim
from jobs.service.jobs import JobKey
from jobs.service.metrics import Point
from jobs.settings import Settings
from jobs.specs import SPEC_ADAPTER
from jobs.state import Event
from tests.jobs.pool import dispatch_to, hold
from tests.workers.deployment import wait_for
from workers.lease import Lease, LeaseExpiredError
from workers.settings import WorkerSettings

WORKER = WorkerSettings(id="w", directive_seconds=0.05, progress_seconds=0.1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Short leases."""
    made = Settings(home=tmp_path, lease_seconds=2, heartbeat_seconds=0.2)
    prepare_deployment(made)
    return made


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database of the worker."""
    opened = Database(settings.effective_database_url)
    yield opened
    opened.close()


@pytest.fixture
def claim(settings: Settings, database: Database) -> Claim:
    """An attempt that `w` has claimed."""
    with database.writing() as connection:
        key = keys.create(connection, project="p", name="k", role="member", secret=keys.new_secret())
        model = ModelRecord(key.project_id, "m", "checkpoint", "ready", None, None, "/models/m", None, {}, 1)
        models.add(connection, model)
        spec = SPEC_ADAPTER.validate_python({"kind": "quantize", "model": "m"})
        (answer,) = submission.submit(connection, [submission.Submission(key.project_id, spec)])
        assert isinstance(answer, submission.SubmittedJob)
        attempt_id = dispatch_to(connection, answer.job.id, "w", settings)
        assert attempt_id is not None
        claimed = attempts.claim(connection, attempt_id, "w", settings)
    assert isinstance(claimed, Claim)
    return claimed


@contextmanager
def outage(database: Database) -> Iterator[None]:
    """Block all writers within the block; writes fail immediately instead of after SQLite's timeout."""
    other = Database(str(database.url))
    with other.writing():
        yield
    other.close()


def lease_on(claim: Claim, database: Database, settings: Settings) -> Lease:
    """The lease of the claimed attempt."""
    return Lease(claim.attempt.id, taken_at=time.monotonic(), database=database, settings=settings, worker=WORKER)


def logged(claim: Claim, database: Database) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the job's log without state changes."""
    key = JobKey(claim.job.project_id, claim.job.id)
    with database.reading() as connection:
        events = jobs.list_events(connection, key, after=0, limit=100, types=["log", "progress"])
    return [(event.type, event.data) for event in events]


def test_a_short_outage_costs_nothing(claim: Claim, database: Database, settings: Settings) -> None:
    patient = settings.model_copy(update={"lease_seconds": 60})
    with lease_on(claim, database, patient) as lease:
        lease.record_lines("stdout", ["before"])
        with outage(database):
            lease.record_lines("stdout", ["meanwhile"])
            lease.record_progress({"fraction": 0.5, "stage": "training", "metrics": {}})
            time.sleep(0.5)
        expected = [
            ("log", {"stream": "stdout", "lines": ["before", "meanwhile"]}),
            ("progress", {"fraction": 0.5, "stage": "training", "metrics": {}}),
        ]
        wait_for("the entries", lambda: logged(claim, database) == expected)
        assert lease.directive is Directive.CONTINUE


def report(lease: Lease, claim: Claim, database: Database, fraction: float, stage: str) -> None:
    """Report progress, and wait until the job shows it."""
    progress = {"fraction": fraction, "stage": stage, "metrics": {}}
    lease.record_progress(progress)
    key = JobKey(claim.job.project_id, claim.job.id)

    def shown() -> bool:
        with database.reading() as connection:
            return jobs.get(connection, key).progress == progress

    wait_for(f"progress {fraction}", shown)


def test_the_log_has_an_event_per_percent_and_stage_and_the_job_shows_the_newest(
    claim: Claim, database: Database, settings: Settings
) -> None:
    patient = settings.model_copy(update={"lease_seconds": 60})
    reported = [(0.1, "loading"), (0.101, "loading"), (0.105, "training"), (0.114, "training"), (0.12, "training")]
    with lease_on(claim, database, patient) as lease:
        for fraction, stage in reported:
            report(lease, claim, database, fraction, stage)
        report(lease, claim, database, 0.995, "training")
        report(lease, claim, database, 1.0, "training")
    logged_fractions = [entry["fraction"] for _, entry in logged(claim, database)]
    assert logged_fractions == [0.1, 0.105, 0.12, 0.995, 1.0]


def test_progress_events_are_bounded(
    claim: Claim, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.lease.MAX_PROGRESS_EVENTS", 2)
    patient = settings.model_copy(update={"lease_seconds": 60})
    with lease_on(claim, database, patient) as lease:
        for stage in ("loading", "writing", "loading", "writing"):
            report(lease, claim, database, 0.5, stage)
        report(lease, claim, database, 1.0, "publishing")
    assert [entry["stage"] for _, entry in logged(claim, database)] == ["loading", "writing", "publishing"]


def test_after_an_outage_longer_than_the_lease_the_attempt_is_abandoned(
    claim: Claim, database: Database, settings: Settings
) -> None:
    lease = lease_on(claim, database, settings)
    with outage(database), lease:
        wait_for("the end of the lease", lambda: lease.directive is Directive.ABANDON)
    with pytest.raises(LeaseExpiredError):
        lease.retry_until_expiry(lambda connection: connection.exec_driver_sql("SELECT * FROM a_table_that_is_away"))


def test_a_stop_directive_arrives_without_a_renewal(claim: Claim, database: Database, settings: Settings) -> None:
    patient = settings.model_copy(update={"heartbeat_seconds": 600, "lease_seconds": 600})
    with lease_on(claim, database, patient) as lease:
        with database.writing() as connection:
            jobs.cancel(connection, JobKey(claim.job.project_id, claim.job.id), settings)
        wait_for("the order", lambda: lease.directive is Directive.STOP)


def test_the_end_is_recorded_together_with_the_last_lines(claim: Claim, database: Database, settings: Settings) -> None:
    with lease_on(claim, database, settings) as lease:
        lease.stop()
        lease.record_lines("stderr", ["last words"])
        lease.end_attempt(lambda connection: hold(connection, claim.attempt.id, "w", settings).end(Event.FAIL))
    assert logged(claim, database)[-1] == ("log", {"stream": "stderr", "lines": ["last words"]})


def test_every_logged_step_is_recorded_even_through_an_outage(
    database: Database, settings: Settings, claim: Claim
) -> None:
    with lease_on(claim, database, settings) as lease:
        lease.record_point(Point(1, {"loss": 2.0}))
        with outage(database):
            lease.record_point(Point(2, {"loss": None}))
            time.sleep(0.3)
        lease.record_point(Point(3, {"loss": 1.0}))
        lease.end_attempt(lambda connection: hold(connection, claim.attempt.id, "w", settings).end(Event.RELEASE))
    key = JobKey(claim.job.project_id, claim.job.id)
    with database.reading() as connection:
        found = metrics.read(connection, key, metrics.MetricWindow([], None, None, 10))
    assert found is not None
    (loss,) = found.series
    assert (loss.first_step, loss.mean, loss.nan) == ([1, 2, 3], [2.0, None, 1.0], [0, 1, 0])
