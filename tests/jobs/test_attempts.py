"""Attempts: one worker at a time, fenced, with leases; and a state machine that tries events in any order."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection

from jobs.artifacts import StoredFile
from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.database.tables import Job, Model
from jobs.errors import ConflictError, DomainError
from jobs.maintenance.reaper import reap_overdue_attempts
from jobs.records import JobDetails
from jobs.repository import allocations
from jobs.repository import attempts as rows
from jobs.service import attempts, models
from jobs.service import jobs as service
from jobs.service.attempts import Directive, HeldAttempt, ProducedModel
from jobs.service.claims import Claim
from jobs.service.jobs import JobKey
from jobs.settings import Settings
from jobs.state import Event, JobState
from tests.jobs.conftest import Deployment
from tests.jobs.pool import dispatch_to, hold, start_on

STORED = [StoredFile("model/config.json", 2, "0" * 64)]
USER_ACTIONS = (service.cancel, service.pause, service.resume, service.retry)
MODEL = ProducedModel("model", "checkpoint", {"bytes": 2})


class Pool:
    """Steps of the dispatcher and workers, each in a separate transaction as in the real processes."""

    def __init__(self, deployment: Deployment) -> None:
        self.database = deployment.database
        self.settings = deployment.settings
        self.project_id = deployment.project_id

    def dispatch(self, job_id: str, worker: str = "w1") -> str | None:
        with self.database.writing() as connection:
            return dispatch_to(connection, job_id, worker, self.settings)

    def claim(self, attempt_id: str, worker: str = "w1") -> bool:
        with self.database.writing() as connection:
            return attempts.claim(connection, attempt_id, worker, self.settings) is not None

    def start(self, job_id: str, worker: str = "w1") -> str:
        attempt_id = self.dispatch(job_id, worker)
        assert attempt_id is not None
        assert self.claim(attempt_id, worker)
        return attempt_id

    def renew(self, attempt_id: str, worker: str = "w1") -> Directive:
        with self.database.writing() as connection:
            held = HeldAttempt.lock(connection, self.settings, attempt_id, worker)
            return held.renew({"fraction": 0.5}, [("log", {"lines": ["a"]})]) if held else Directive.ABANDON

    def succeed(self, attempt_id: str, worker: str = "w1") -> bool:
        with self.database.writing() as connection:
            held = HeldAttempt.lock(connection, self.settings, attempt_id, worker)
            return held is not None and held.succeed({"ok": True}, STORED, MODEL)

    def end(self, attempt_id: str, event: Event, worker: str = "w1") -> JobState | None:
        with self.database.writing() as connection:
            held = HeldAttempt.lock(connection, self.settings, attempt_id, worker)
            return held.end(event, {"code": "x", "message": "y"}) if held else None

    def run_out(self, attempt_id: str) -> None:
        """Expire the attempt and run the reaper."""
        with self.database.writing() as connection:
            allocations.update(connection, attempt_id, {"deadline": 1})
        reap_overdue_attempts(self.database, self.settings)

    def job(self, job_id: str) -> JobDetails:
        with self.database.reading() as connection:
            return service.get(connection, JobKey(self.project_id, job_id))

    def artifacts(self, job_id: str) -> list[str]:
        with self.database.reading() as connection:
            page = service.list_artifacts(connection, JobKey(self.project_id, job_id), after=None, limit=100)
        return [artifact.path for artifact in page]


@pytest.fixture
def pool(deployment: Deployment) -> Pool:
    return Pool(deployment)


def test_success_publishes_artifacts_and_model_together(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit(output_model="small")
    attempt_id = pool.start(job.id)
    assert pool.artifacts(job.id) == []
    assert pool.succeed(attempt_id)
    done = pool.job(job.id)
    assert (done.state, done.result, done.error) == (JobState.SUCCEEDED, {"ok": True}, None)
    assert pool.artifacts(job.id) == ["model/config.json"]
    with deployment.database.reading() as connection:
        model = models.get(connection, deployment.project_id, "small")
    assert model.key == f"jobs/{job.id}/{attempt_id}/output/model"


def test_a_message_delivered_twice_is_claimed_once(deployment: Deployment, pool: Pool) -> None:
    attempt_id = pool.dispatch(deployment.submit().id)
    assert attempt_id is not None
    assert [pool.claim(attempt_id), pool.claim(attempt_id), pool.claim(attempt_id, "w2")] == [True, False, False]


def test_a_zombie_can_neither_publish_nor_renew_nor_fail(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit()
    zombie = pool.start(job.id, "w1")
    pool.run_out(zombie)
    assert pool.job(job.id).state is JobState.QUEUED
    successor = pool.start(job.id, "w2")
    assert pool.renew(zombie) is Directive.ABANDON
    assert pool.end(zombie, Event.FAIL) is None
    assert not pool.succeed(zombie)
    assert pool.artifacts(job.id) == []
    assert pool.succeed(successor, "w2")


def test_a_lost_worker_costs_an_attempt_and_the_last_one_the_job(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit(max_attempts=2, output_model="small")
    pool.run_out(pool.start(job.id))
    assert pool.job(job.id).state is JobState.QUEUED
    pool.run_out(pool.start(job.id))
    lost = pool.job(job.id)
    assert lost.state is JobState.FAILED
    assert lost.error is not None
    assert lost.error["code"] == "worker_lost"
    deployment.submit(output_model="small")  # the failed job no longer holds the name


def test_a_message_that_no_worker_receives_costs_no_attempt(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit(max_attempts=1)
    for _ in range(3):
        attempt_id = pool.dispatch(job.id)
        assert attempt_id is not None
        pool.run_out(attempt_id)
    waiting = pool.job(job.id)
    assert (waiting.state, waiting.charged_attempts, waiting.attempt_count) == (JobState.QUEUED, 0, 3)


def test_a_worker_that_shuts_down_releases_its_job_without_counting(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit(max_attempts=1)
    assert pool.end(pool.start(job.id), Event.RELEASE) is JobState.QUEUED
    assert pool.job(job.id).charged_attempts == 0


def test_a_cancelled_job_ends_cancelled_even_if_its_work_was_done(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit()
    attempt_id = pool.start(job.id)
    with deployment.database.writing() as connection:
        key = JobKey(deployment.project_id, job.id)
        assert service.cancel(connection, key, pool.settings).state is JobState.CANCELLING
        assert service.cancel(connection, key, pool.settings).state is JobState.CANCELLING
    assert pool.renew(attempt_id) is Directive.STOP
    assert not pool.succeed(attempt_id)
    assert pool.job(job.id).state is JobState.CANCELLED
    assert pool.artifacts(job.id) == []


def test_a_spec_of_another_version_fails_the_job_instead_of_being_retried_forever(
    deployment: Deployment, pool: Pool
) -> None:
    job = deployment.submit()
    with deployment.database.writing() as connection:
        connection.execute(sa.update(Job).values(spec={**job.spec, "method": "int3"}))
    attempt_id = pool.dispatch(job.id)
    assert attempt_id is not None
    assert not pool.claim(attempt_id)
    failed = pool.job(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error["code"]) == (JobState.FAILED, "outdated_spec")
    assert "method" in failed.error["message"]


def test_attempts_that_no_worker_claimed_are_not_earlier_ones(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit()
    expired = pool.dispatch(job.id)
    assert expired is not None
    pool.run_out(expired)
    lost = pool.start(job.id)
    pool.run_out(lost)
    third = pool.dispatch(job.id)
    assert third is not None
    with deployment.database.writing() as connection:
        claim = attempts.claim(connection, third, "w1", pool.settings)
    assert isinstance(claim, Claim)
    assert claim.earlier_attempts == [lost]


def test_waiting_doubles_with_each_attempt_that_counted(deployment: Deployment, pool: Pool) -> None:
    slow = Settings(home=pool.settings.home, database_url=pool.settings.database_url, backoff_seconds=10)
    job = deployment.submit(max_attempts=5)
    waits = []
    for _ in range(3):
        with deployment.database.writing() as connection:
            attempt_id = start_on(connection, job.id, "w1", slow)
            hold(connection, attempt_id, "w1", slow).end(Event.STUMBLE, {"code": "x", "message": "y"})
        attempt = pool.job(job.id)
        with deployment.database.reading() as connection:
            finished = service.list_attempts(connection, JobKey(deployment.project_id, job.id))[-1].finished_at
        assert finished is not None
        waits.append(attempt.not_before - finished)
    assert waits == [10_000, 20_000, 40_000]


def test_a_paused_job_releases_its_devices_and_waits_until_it_is_resumed(deployment: Deployment, pool: Pool) -> None:
    job = deployment.submit()
    key = JobKey(deployment.project_id, job.id)
    with deployment.database.writing() as connection:
        with pytest.raises(ConflictError, match="quantize jobs cannot be paused; only finetune"):
            service.pause(connection, key, pool.settings)
        connection.execute(sa.update(Job).values(kind="finetune"))
    attempt_id = pool.start(job.id)

    def ask(action: Callable[[Connection, JobKey, Settings], JobDetails]) -> JobState:
        with deployment.database.writing() as connection:
            return action(connection, key, pool.settings).state

    assert pool.renew(attempt_id) is Directive.CONTINUE
    assert [ask(service.pause), ask(service.pause)] == [JobState.PAUSING, JobState.PAUSING]
    assert pool.renew(attempt_id) is Directive.YIELD
    assert pool.end(attempt_id, Event.RELEASE) is JobState.PAUSED
    paused = pool.job(job.id)
    assert (paused.attempt_id, paused.charged_attempts) == (None, 0)
    assert pool.dispatch(job.id) is None
    assert [ask(service.resume), ask(service.resume)] == [JobState.QUEUED, JobState.QUEUED]
    again = pool.start(job.id)
    assert [ask(service.pause), ask(service.resume)] == [JobState.PAUSING, JobState.RUNNING]
    assert ask(service.pause) is JobState.PAUSING
    assert pool.succeed(again)  # it was done before it could pause
    done = pool.job(job.id)
    assert (done.state, done.result) == (JobState.SUCCEEDED, {"ok": True})
    with pytest.raises(DomainError, match="only a paused job"):
        ask(service.resume)


class AnyOrder(RuleBasedStateMachine):
    """Users, dispatcher, two workers and the reaper act in any order; invariants are checked after each step."""

    jobs = Bundle("jobs")
    attempts = Bundle("attempts")
    home: Path

    def __init__(self) -> None:
        super().__init__()
        deployed = Settings(home=self.home, backoff_seconds=0)
        self.deployment = Deployment(Database(deployed.effective_database_url), deployed)
        self.pool = Pool(self.deployment)
        self.known: list[str] = []
        self.published: dict[str, int] = {}

    @rule(target=jobs, attempts_allowed=st.integers(1, 3))
    def submit(self, attempts_allowed: int) -> str:
        job = self.deployment.submit(max_attempts=attempts_allowed)
        with self.pool.database.writing() as connection:  # a kind that can be paused; it needs no file to be submitted
            connection.execute(sa.update(Job).where(Job.id == job.id).values(kind="finetune"))
        self.known.append(job.id)
        return job.id

    @rule(target=attempts, job=jobs, worker=st.sampled_from(["w1", "w2"]))
    def dispatch(self, job: str, worker: str) -> tuple[str | None, str, str]:
        return self.pool.dispatch(job, worker), worker, job

    @rule(attempt=attempts)
    def claim(self, attempt: tuple[str | None, str, str]) -> None:
        if attempt[0]:
            self.pool.claim(attempt[0], attempt[1])

    @rule(attempt=attempts)
    def renew(self, attempt: tuple[str | None, str, str]) -> None:
        if attempt[0]:
            self.pool.renew(attempt[0], attempt[1])

    @rule(attempt=attempts)
    def succeed(self, attempt: tuple[str | None, str, str]) -> None:
        if attempt[0] and self.pool.succeed(attempt[0], attempt[1]):
            self.published[attempt[2]] = self.published.get(attempt[2], 0) + 1

    @rule(attempt=attempts, event=st.sampled_from([Event.FAIL, Event.STUMBLE, Event.RELEASE]))
    def end(self, attempt: tuple[str | None, str, str], event: Event) -> None:
        if attempt[0]:
            self.pool.end(attempt[0], event, attempt[1])

    @rule(attempt=attempts)
    def stop(self, attempt: tuple[str | None, str, str]) -> None:
        if attempt[0] and self.pool.renew(attempt[0], attempt[1]) is Directive.STOP:
            assert self.pool.end(attempt[0], Event.STOP, attempt[1]) is JobState.CANCELLED

    @rule(attempt=consumes(attempts))
    def run_out(self, attempt: tuple[str | None, str, str]) -> None:
        if attempt[0]:
            self.pool.run_out(attempt[0])

    @rule(job=jobs, wanted=st.sampled_from(USER_ACTIONS))
    def user(self, job: str, wanted: Callable[[Connection, JobKey, Settings], JobDetails]) -> None:
        try:
            with self.pool.database.writing() as connection:
                wanted(connection, JobKey(self.pool.project_id, job), self.pool.settings)
        except DomainError:
            state = self.pool.job(job).state
            assert state not in (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED) or wanted is service.retry

    @invariant()
    def holds(self) -> None:
        for job_id in self.known:
            job = self.pool.job(job_id)
            with self.pool.database.reading() as connection:
                tries = service.list_attempts(connection, JobKey(self.pool.project_id, job_id))
                log = service.list_events(connection, JobKey(self.pool.project_id, job_id), after=0, limit=10_000)
                model = connection.execute(sa.select(Model.state).where(Model.job_id == job_id)).scalar_one_or_none()
            alive = [attempt for attempt in tries if attempt.state in rows.OPEN_STATES]
            busy = job.state in (JobState.DISPATCHED, JobState.RUNNING, JobState.CANCELLING, JobState.PAUSING)
            assert [attempt.id for attempt in alive] == ([job.attempt_id] if busy else [])
            assert job.charged_attempts <= job.max_attempts
            assert (self.pool.artifacts(job_id) != []) == (job.state is JobState.SUCCEEDED)
            assert self.published.get(job_id, 0) == (job.state is JobState.SUCCEEDED)
            assert [event.sequence for event in log] == list(range(1, job.last_event + 1))
            assert log[-1].type == "log" or [e for e in log if e.type == "state"][-1].data["to"] == job.state
            expected = (
                {True: "ready", False: None}[job.state is JobState.SUCCEEDED] if job.state.is_final else "pending"
            )
            assert model == expected

    def teardown(self) -> None:
        self.pool.database.close()


@pytest.mark.slow
def test_no_order_of_events_breaks_a_job(tmp_path: Path) -> None:
    AnyOrder.home = tmp_path
    prepare_deployment(Settings(home=tmp_path))
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
