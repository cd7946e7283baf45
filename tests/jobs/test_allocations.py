"""Attempts on several nodes start, expire and are lost as a whole; draining releases allocations."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.database import Database
from jobs.errors import NotFoundError
from jobs.maintenance.reaper import reap_overdue_attempts
from jobs.records import AllocationRecord, JobRecord
from jobs.repository import allocations
from jobs.scheduling import NodePlacement, Placement, Reservation
from jobs.service import attempts, workers
from jobs.service import jobs as service
from jobs.service.attempts import ClaimStatus, Directive, HeldAttempt
from jobs.service.claims import Claim
from jobs.service.dispatching import dispatch_job
from jobs.service.jobs import JobKey
from jobs.service.pool import read_machines
from jobs.settings import Settings
from jobs.state import Event, JobState
from tests.jobs.conftest import Deployment
from tests.jobs.pool import add_worker, dispatch_to, hold, start_on

DEVICE = Reservation("cpu-0", 0, 1000)


class Gang:
    """An attempt at one job on several workers, with each step in its own transaction."""

    def __init__(self, deployment: Deployment, *names: str) -> None:
        self.database, self.settings = deployment.database, deployment.settings
        self.project_id = deployment.project_id
        self.job_id = deployment.submit().id
        nodes = tuple(NodePlacement(name, (DEVICE,), 0) for name in names)
        with self.database.writing() as connection:
            attempt_id = dispatch_job(connection, Placement(self.job_id, nodes), self.settings)
        assert attempt_id is not None
        self.attempt_id = attempt_id

    def claim(self, worker: str) -> Claim | ClaimStatus | None:
        with self.database.writing() as connection:
            return attempts.claim(connection, self.attempt_id, worker, self.settings)

    def poll_claim(self, worker: str) -> Claim | ClaimStatus | None:
        with self.database.writing() as connection:
            return attempts.poll_claim(connection, self.attempt_id, worker, self.settings)

    def let_run_out(self, worker: str) -> None:
        with self.database.writing() as connection:
            allocations.update(connection, self.attempt_id, {"deadline": 1}, worker_id=worker)
        reap_overdue_attempts(self.database, self.settings)

    def peek(self, worker: str) -> Directive:
        with self.database.reading() as connection:
            return attempts.peek_directive(connection, self.attempt_id, worker)

    @property
    def job(self) -> JobRecord:
        with self.database.reading() as connection:
            return service.get(connection, JobKey(self.project_id, self.job_id))

    @property
    def open_allocations(self) -> list[AllocationRecord]:
        with self.database.reading() as connection:
            return [each for each in allocations.list_open(connection) if each.attempt_id == self.attempt_id]


def test_a_gang_begins_once_all_have_claimed(deployment: Deployment) -> None:
    gang = Gang(deployment, "a", "b", "c")
    assert [gang.claim("a"), gang.claim("b")] == [ClaimStatus.WAITING] * 2
    assert gang.claim("a") is None  # a message delivered twice
    assert (gang.job.state, gang.poll_claim("a")) == (JobState.DISPATCHED, ClaimStatus.WAITING)
    last = gang.claim("c")
    assert isinstance(last, Claim)
    assert (last.allocation.node, last.allocation.worker_id) == (2, "c")
    first = gang.poll_claim("a")
    assert isinstance(first, Claim)
    assert (first.allocation.node, gang.job.state) == (0, JobState.RUNNING)


def test_a_gang_of_which_one_never_claims_expires_and_all_are_free(deployment: Deployment) -> None:
    gang = Gang(deployment, "a", "b")
    gang.claim("a")
    gang.let_run_out("b")
    assert (gang.job.state, gang.job.charged_attempts) == (JobState.QUEUED, 0)
    assert gang.open_allocations == []
    assert gang.poll_claim("a") is None
    assert gang.claim("b") is None


@pytest.mark.parametrize("silent", ["a", "b"])
def test_a_gang_that_loses_one_member_is_lost(deployment: Deployment, silent: str) -> None:
    gang = Gang(deployment, "a", "b")
    gang.claim("a")
    gang.claim("b")
    gang.let_run_out(silent)
    assert (gang.job.state, gang.job.charged_attempts) == (JobState.QUEUED, 1)
    assert [gang.peek("a"), gang.peek("b")] == [Directive.ABANDON] * 2
    assert gang.open_allocations == []


def test_cancelling_stops_every_member(deployment: Deployment) -> None:
    gang = Gang(deployment, "a", "b")
    gang.claim("a")
    gang.claim("b")
    with deployment.database.writing() as connection:
        service.cancel(connection, JobKey(deployment.project_id, gang.job_id), gang.settings)
    assert [gang.peek("a"), gang.peek("b")] == [Directive.STOP] * 2


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(2, 4))
def test_no_order_of_events_leaves_part_of_a_gang(deployment: Deployment, chooser: random.Random, size: int) -> None:
    names = [f"w{number}" for number in range(size)]
    gang = Gang(deployment, *names)
    for _ in range(12):
        name = chooser.choice(names)
        step = chooser.choice([gang.claim, gang.claim, gang.poll_claim, gang.peek, gang.let_run_out])
        step(name)
        open_now = {each.worker_id for each in gang.open_allocations}
        alive = gang.job.attempt_id == gang.attempt_id
        assert open_now == (set(names) if alive else set())
        claimed = {each.worker_id for each in gang.open_allocations if each.claimed_at is not None}
        assert (gang.job.state is JobState.RUNNING) == (alive and claimed >= set(names))


def test_allocations_of_an_attempt_are_released_when_it_ends(deployment: Deployment) -> None:
    add_worker(deployment.database, "w1", slots=2)
    job = deployment.submit()
    with deployment.database.writing() as connection:
        nodes = (NodePlacement("w1", (DEVICE,), 500),)
        attempt_id = str(dispatch_job(connection, Placement(job.id, nodes), deployment.settings))
        (machine,) = read_machines(connection, deployment.settings)
        assert [(held.job_id, held.devices, held.host_bytes) for held in machine.holdings] == [(job.id, (DEVICE,), 500)]
        attempts.claim(connection, attempt_id, "w1", deployment.settings)
        hold(connection, attempt_id, "w1", deployment.settings).end(Event.FAIL)
        (machine,) = read_machines(connection, deployment.settings)
        assert machine.holdings == ()


def test_a_draining_worker_takes_no_new_jobs_and_yields_at_its_deadline(
    database: Database, deployment: Deployment
) -> None:
    clock: Settings = deployment.settings
    add_worker(database, "w1", slots=2)
    job = deployment.submit(max_attempts=1)
    with database.writing() as connection:
        attempt_id = start_on(connection, job.id, "w1", clock)
        workers.drain(connection, "w1", None, clock)
        assert read_machines(connection, clock) == []
        assert attempts.peek_directive(connection, attempt_id, "w1") is Directive.CONTINUE
        drained = workers.drain(connection, "w1", 0, clock)
        assert drained.drain_at is not None
    with database.writing() as connection:
        held = hold(connection, attempt_id, "w1", clock)
        assert held.renew() is Directive.YIELD
        assert held.end(Event.RELEASE) is JobState.QUEUED
        workers.undrain(connection, "w1", clock)
        assert [machine.worker_id for machine in read_machines(connection, clock)] == ["w1"]
    with database.reading() as connection:
        assert service.get(connection, JobKey(deployment.project_id, job.id)).charged_attempts == 0


def test_a_heartbeat_does_not_end_draining(database: Database, deployment: Deployment) -> None:
    add_worker(database, "w1")
    with database.writing() as connection:
        workers.drain(connection, "w1", None, deployment.settings)
    add_worker(database, "w1")
    with database.reading() as connection:
        assert read_machines(connection, deployment.settings) == []


def test_only_a_worker_that_is_alive_can_be_drained(database: Database, deployment: Deployment) -> None:
    with database.writing() as connection, pytest.raises(NotFoundError, match="no worker 'w9' is running"):
        workers.drain(connection, "w9", None, deployment.settings)


def test_an_attempt_of_another_worker_cannot_be_held(database: Database, deployment: Deployment) -> None:
    job = deployment.submit()
    with database.writing() as connection:
        attempt_id = str(dispatch_to(connection, job.id, "w1", deployment.settings))
        assert attempts.claim(connection, attempt_id, "w2", deployment.settings) is None
        assert HeldAttempt.lock(connection, deployment.settings, attempt_id, "w1") is None
