"""Workers that receive no messages, and unexpected messages in their queues."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from jobs.transport import TASK_NAME, WAKE_KEY, get_worker_queue_name
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from workers.delivery_watch import DeliveryWatch

pytestmark = pytest.mark.slow  # every test waits until a worker has noticed a fault

CLOCK: dict[str, Any] = {"lease_seconds": 6, "heartbeat_seconds": 0.5, "pickup_seconds": 4, "backoff_seconds": 0}
PATIENT = {**CLOCK, "lease_seconds": 120, "pickup_seconds": 120}  # longer than a test: nothing repairs itself
patiently = pytest.mark.parametrize("service", [PATIENT], indirect=True)


class Network:
    """A network to Redis whose connections can silently die, as behind a firewall that drops them."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._dead: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def forget_connections(self) -> None:
        """Drop all data of existing connections from now on; new ones work."""
        self._dead |= self._open

    def close(self) -> None:
        """Close everything."""
        for each in (self._listener, *self._open):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server.port))
            except OSError:
                return
            self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if source not in self._dead:
                    target.sendall(data)
        except OSError:
            return
        if source not in self._dead:
            target.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def service(
    tmp_path: Path, own_redis: RedisServer, tiny_checkpoint: Path, request: pytest.FixtureRequest
) -> Iterator[Deployment]:
    """A deployment with a dispatcher; the tests start its workers."""
    clock = getattr(request, "param", CLOCK)
    with deployment(tmp_path / "home", own_redis, model_roots=str(tiny_checkpoint), **clock) as made:
        made.register("tiny", tiny_checkpoint)
        made.start_dispatcher()
        yield made


def small_job(service: Deployment) -> str:
    """Submit a job that takes very little time."""
    return service.submit(kind="generate", model="tiny", prompts=["a"], max_new_tokens=1)


def test_a_worker_notices_a_dead_connection_and_reconnects(service: Deployment, own_redis: RedisServer) -> None:
    network = Network(own_redis)
    process = service.start_worker("w", redis_url=f"redis://127.0.0.1:{network.port}/0")
    service.wait(small_job(service))
    network.forget_connections()
    job_id = small_job(service)
    service.wait(job_id)
    assert service.job(job_id).charged_attempts == 0
    assert "no message has arrived; reconnecting" in service.log_of("w")
    assert process.poll() is None
    network.close()


def test_a_worker_gives_up_when_new_connections_do_not_help() -> None:
    now = 100.0
    calls: list[str] = []
    ear = DeliveryWatch(lambda: calls.append("reconnect"), lambda: calls.append("give up"), lambda: now)
    now += 10
    ear.check_delivery(None)
    ear.check_delivery(20)  # sent before the worker began to listen
    assert calls == []
    ear.check_delivery(5)
    ear.check_delivery(5)  # the same attempt: sent before the new connection
    assert calls == ["reconnect"]
    ear.record_message()
    for _ in range(4):
        now += 10
        ear.check_delivery(5)
    assert calls == ["reconnect", "reconnect", "reconnect", "give up"]
    assert ear.is_lost


@patiently
def test_a_message_that_waits_while_redis_dies_does_not_block_the_worker(
    service: Deployment, own_redis: RedisServer
) -> None:
    """Otherwise the acknowledgement of the second message fails, and kombu never receives another message."""
    service.start_worker("w")
    long = service.submit(kind="generate", model="tiny", prompts=["a"] * 64, max_new_tokens=200, temperature=0)
    service.wait(long, "running")
    attempt = service.attempts(long)[0].id
    send(own_redis, message(attempt))
    with client_of(own_redis) as client:
        wait_for("the message to be fetched", lambda: client.llen(get_worker_queue_name("w")) == 0)
    own_redis.stop()
    service.wait(long)
    wait_for("the second message", lambda: f"{attempt}: skipped" in service.log_of("w"))
    own_redis.start()
    later = [small_job(service) for _ in range(3)]
    for job_id in later:
        service.wait(job_id)
        assert len(service.attempts(job_id)) == 1
    assert "Couldn't ack" not in service.log_of("w")


def client_of(server: RedisServer) -> redis.Redis:
    """A client of the server."""
    return redis.Redis.from_url(server.url)


def send(server: RedisServer, *messages: str | bytes) -> None:
    """Put something into the queue of worker `w`."""
    with client_of(server) as client:
        client.lpush(get_worker_queue_name("w"), *messages)


def message(attempt_id: object, task: object = TASK_NAME, **changes: object) -> str:
    """A message as Celery writes it."""
    return json.dumps(
        {
            "body": json.dumps([[attempt_id], {}, {}]),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": task, "id": "m", "root_id": "m", "argsrepr": "", "kwargsrepr": ""},
            "properties": {
                "delivery_tag": "t",
                "delivery_info": {"exchange": "", "routing_key": get_worker_queue_name("w")},
                "body_encoding": None,
            },
            **changes,
        }
    )


GARBAGE: list[str | bytes] = [
    b"not JSON",
    b"\xff\xfe\x00",
    b"",
    b"5",
    b"[]",
    b"{}",
    b"null",
    b"[" * 100_000,
    b'{"properties": 5}',
    message("att_none", body="not JSON"),
    message("att_none", body=json.dumps([])),
    message("att_none", body=json.dumps([["a", "b", "c"], {}, {}])),
    message("att_none", body="/w==", properties={"delivery_tag": "t", "delivery_info": {}, "body_encoding": "base64"}),
    message("att_none", task="workers.unknown"),
    message("att_none", task=[1]),
    message("att_none", headers=5),
    message("att_none", **{"content-type": "application/x-python-serialize"}),
    message({"an": "object"}),
    message(None),
    message("\0"),
]


@patiently
def test_garbage_in_the_queue_is_dropped(service: Deployment, own_redis: RedisServer) -> None:
    process = service.start_worker("w")
    for garbage in GARBAGE:
        send(own_redis, garbage)
    with client_of(own_redis) as client:
        wait_for("an empty queue", lambda: client.llen(get_worker_queue_name("w")) == 0)
    job_id = small_job(service)
    service.wait(job_id)
    assert len(service.attempts(job_id)) == 1
    assert process.poll() is None
    assert "dropped a malformed message from worker.w: JSONDecodeError" in service.log_of("w")


def test_keys_of_the_wrong_type_are_deleted(service: Deployment, own_redis: RedisServer) -> None:
    process = service.start_worker("w")
    service.wait(small_job(service))
    with client_of(own_redis) as client:
        names = [key.decode() for key in client.keys("*")]
        for name in {*names, get_worker_queue_name("w"), WAKE_KEY, f"_kombu.binding.{get_worker_queue_name('w')}"}:
            client.delete(name)
            client.set(name, "no list")
        wait_for("the queue's key to be deleted", lambda: not client.exists(get_worker_queue_name("w")))
        wait_for("the dispatcher's key to be deleted", lambda: client.type(WAKE_KEY) != b"string")
    service.wait(small_job(service))
    assert process.poll() is None
    assert "deleted the Redis key worker.w: a queue must be a list, but this was a string" in service.log_of("w")
    service.end("w", signal.SIGTERM)
    service.start_worker("w")
    service.wait(small_job(service))
