"""The dispatcher against a real Redis-compatible server: messages, leadership and outages."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from jobs.database import Database, now_ms
from jobs.dispatcher import LEASE_MS, Dispatcher
from jobs.health import main as health
from jobs.records import JobRecord
from jobs.repository.workers import get_lease, hold_lease
from jobs.service import attempts, workers
from jobs.service import jobs as service
from jobs.service.attempts import Directive
from jobs.service.jobs import JobKey
from jobs.settings import Settings
from jobs.state import JobState
from jobs.transport import BrokerUnreachableError, Transport, Waker, get_worker_queue_name
from tests.jobs.conftest import Deployment
from tests.jobs.pool import add_worker, hold

pytestmark = pytest.mark.integration


@pytest.fixture
def broker(valkey_server_factory: Callable[..., Any]) -> Any:
    """A server of this test alone."""
    return valkey_server_factory()


@pytest.fixture
def settings(tmp_path: Any, broker: Any) -> Settings:
    """SQLite, and that server."""
    url = broker.connection_url.replace("valkey://", "redis://")
    return Settings(home=tmp_path / "home", redis_url=url, backoff_seconds=0, poll_seconds=0.05)


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.effective_redis_url)


def job_of(deployment: Deployment, job_id: str) -> JobRecord:
    with deployment.database.reading() as connection:
        return service.get(connection, JobKey(deployment.project_id, job_id))


def test_jobs_go_to_free_slots_by_priority_and_no_further(
    deployment: Deployment, settings: Settings, client: redis.Redis
) -> None:
    add_worker(deployment.database, "w1")
    add_worker(deployment.database, "drained", state="draining")
    low, high = deployment.submit(priority=0), deployment.submit(priority=5)
    dispatcher = Dispatcher(settings)
    assert dispatcher.dispatch_waiting() == 1
    assert dispatcher.dispatch_waiting() == 0
    assert (job_of(deployment, high.id).state, job_of(deployment, low.id).state) == ("dispatched", "queued")
    assert client.llen(get_worker_queue_name("w1")) == 1
    assert client.llen(get_worker_queue_name("drained")) == 0


def test_only_one_of_two_leads_and_the_other_takes_over(deployment: Deployment, settings: Settings) -> None:
    add_worker(deployment.database, "w1", slots=100)
    both = [Dispatcher(settings), Dispatcher(settings)]
    threads = [threading.Thread(target=dispatcher.run, daemon=True) for dispatcher in both]
    for thread in threads:
        thread.start()
    wait_until(lambda: health_of(settings) == 0)
    first = deployment.submit()
    wait_until(lambda: job_of(deployment, first.id).state is JobState.DISPATCHED)
    both[0].stop()
    threads[0].join()
    second = deployment.submit()
    wait_until(lambda: job_of(deployment, second.id).state is JobState.DISPATCHED)
    assert [job_of(deployment, job.id).attempt_count for job in (first, second)] == [1, 1]
    both[1].stop()
    threads[1].join()
    assert health_of(settings) == 1


def test_while_redis_is_down_jobs_wait_in_sql_and_are_sent_afterwards(
    deployment: Deployment,
    settings: Settings,
    broker: Any,
) -> None:
    add_worker(deployment.database, "w1")
    broker.stop()
    job = deployment.submit()
    with pytest.raises(BrokerUnreachableError):
        Dispatcher(settings).dispatch_waiting()
    waiting = job_of(deployment, job.id)
    assert (waiting.state, waiting.charged_attempts) == (JobState.QUEUED, 0)
    assert (waiting.attempt_count, waiting.last_event) == (0, 1)  # a long outage must not create an attempt per second
    Transport(settings).wake_dispatcher()
    assert not Transport(settings).is_reachable()


def test_jobs_that_no_free_worker_can_run_do_not_hide_those_behind_them(
    deployment: Deployment, settings: Settings
) -> None:
    add_worker(deployment.database, "w1", kinds=["generate"])
    for _ in range(100):
        deployment.submit(priority=1)
    hidden = deployment.submit(kind="generate", prompts=["a"])
    assert Dispatcher(settings).dispatch_waiting() == 1
    assert job_of(deployment, hidden.id).state is JobState.DISPATCHED


def test_a_job_that_could_not_be_sent_is_requeued_immediately(
    deployment: Deployment, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BrokerUnreachableError("gone this moment")

    add_worker(deployment.database, "w1", slots=3)
    made = [deployment.submit() for _ in range(3)]
    dispatcher = Dispatcher(settings)
    with monkeypatch.context() as outage:
        outage.setattr(Transport, "send_attempt", fail)
        with pytest.raises(BrokerUnreachableError):
            dispatcher.dispatch_waiting()
    assert [job_of(deployment, job.id).state for job in made] == [JobState.QUEUED] * 3
    assert dispatcher.dispatch_waiting() == 3


def test_a_worker_without_connection_to_the_broker_does_not_lose_a_job(
    deployment: Deployment, settings: Settings
) -> None:
    add_worker(deployment.database, "deaf", slots=2)
    add_worker(deployment.database, "well")
    job = deployment.submit()
    dispatcher = Dispatcher(settings.model_copy(update={"pickup_seconds": 0.001}))
    assert dispatcher.dispatch_waiting() == 1
    while job_of(deployment, job.id).state is JobState.DISPATCHED:
        dispatcher.end_overdue_attempts()
    assert dispatcher.dispatch_waiting() == 1
    with deployment.database.reading() as connection:
        tried = service.list_attempts(connection, JobKey(deployment.project_id, job.id))
    assert [attempt.worker_id for attempt in tried] == ["deaf", "well"]


def test_a_lost_message_is_sent_again(deployment: Deployment, settings: Settings, client: redis.Redis) -> None:
    hasty = settings.model_copy(update={"pickup_seconds": 0.01})
    add_worker(deployment.database, "w1")
    job = deployment.submit()
    dispatcher = Dispatcher(hasty)
    assert dispatcher.dispatch_waiting() == 1
    lost = job_of(deployment, job.id).attempt_id
    client.flushall()
    thread = threading.Thread(target=dispatcher.run, daemon=True)
    thread.start()
    wait_until(lambda: job_of(deployment, job.id).attempt_id not in (lost, None))
    dispatcher.stop()
    thread.join()
    with deployment.database.writing() as connection:
        assert attempts.claim(connection, str(lost), "w1", settings) is None


def test_a_jump_of_the_clock_loses_no_running_attempt(
    deployment: Deployment, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_worker(deployment.database, "w1", slots=2)
    dispatcher = Dispatcher(settings)
    thread = threading.Thread(target=dispatcher.run, daemon=True)
    running = deployment.submit()
    thread.start()
    wait_until(lambda: job_of(deployment, running.id).state is JobState.DISPATCHED)
    attempt_id = str(job_of(deployment, running.id).attempt_id)
    with deployment.database.writing() as connection:
        assert attempts.claim(connection, attempt_id, "w1", settings)
    told = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: told() + 3600 * 10**9)
    add_worker(deployment.database, "w1", slots=2)
    later = deployment.submit()
    wait_until(lambda: job_of(deployment, later.id).state is JobState.DISPATCHED)  # so it has looked since
    with deployment.database.writing() as connection:
        assert hold(connection, attempt_id, "w1", settings).renew() is Directive.CONTINUE
    dispatcher.stop()
    thread.join()


def test_a_leader_renews_its_lease_only_when_a_third_of_it_has_passed(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    monkeypatch.setattr("time.time_ns", lambda: now)
    with counted_statements() as statements:
        dispatcher = Dispatcher(settings)
        thread = threading.Thread(target=dispatcher.run, daemon=True)
        thread.start()
        wait_until(lambda: statements["SELECT allocations"] >= 10)
        assert statements["INSERT INTO leases"] == 1
        now += 2 * 10**9
        wait_until(lambda: statements["INSERT INTO leases"] == 2)
        expected = now // 10**6 + LEASE_MS

        def is_renewed() -> bool:
            with database.reading() as connection:
                lease = get_lease(connection, "dispatcher")
            return lease is not None and lease[1] == expected

        wait_until(is_renewed)  # the statement is counted before its transaction ends
        dispatcher.stop()
        thread.join()


def test_a_standby_only_reads(settings: Settings, database: Database) -> None:
    with database.writing() as connection:
        at = now_ms(connection)
        assert hold_lease(connection, "dispatcher", "other", now=at, expires_at=at + LEASE_MS)
    with pytest.MonkeyPatch().context() as frozen, counted_statements() as statements:
        frozen.setattr("time.time_ns", lambda: at * 10**6)
        standby = Dispatcher(settings)
        thread = threading.Thread(target=standby.run, daemon=True)
        thread.start()
        wait_until(lambda: statements["SELECT leases"] >= 5)
        assert statements["INSERT INTO leases"] == 0
        standby.stop()
        thread.join()


@contextmanager
def counted_statements() -> Iterator[Counter[str]]:
    """Count the statements of all engines by their beginning."""
    counted: Counter[str] = Counter()

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        counted.update(re.findall(r"^(?:SELECT|INSERT INTO) \w+", statement))

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        yield counted
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)


def test_a_leader_from_before_the_clock_was_set_back_is_replaced(database: Database) -> None:
    with database.writing() as connection:
        assert hold_lease(connection, "dispatcher", "dead", now=3_600_000, expires_at=3_605_000)
        assert not hold_lease(connection, "dispatcher", "next", now=3_599_900, expires_at=3_604_900)
        assert hold_lease(connection, "dispatcher", "next", now=0, expires_at=5_000)


def test_the_dispatcher_is_woken(settings: Settings, client: redis.Redis) -> None:
    waker = Waker(Transport(settings).wake_dispatcher)
    for _ in range(100):
        waker.wake()
    wait_until(lambda: client.llen("baichuan:wake") == 1)
    waker.close()
    Transport(settings).wait_for_work()
    assert client.llen("baichuan:wake") <= 1


def health_of(settings: Settings) -> int:
    """The exit code of the container health check."""
    patch = pytest.MonkeyPatch()
    with patch.context() as environment:
        environment.setenv("BAICHUAN_HOME", str(settings.home))
        return health(["dispatcher"])


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own time limit is the only clock."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.02)


def test_the_health_check_of_a_worker(deployment: Deployment, settings: Settings, database: Database) -> None:
    with pytest.MonkeyPatch().context() as environment:
        environment.setenv("BAICHUAN_HOME", str(settings.home))
        assert health(["worker"]) == 1
        environment.setattr("socket.gethostname", lambda: "host")
        add_worker(deployment.database, "w1")
        assert health(["worker"]) == 0
        assert health([]) == 2
        with database.writing() as connection:
            workers.sign_off(connection, "w1")
        assert health(["worker"]) == 1
