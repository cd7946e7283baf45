"""The Celery worker for the application in `jobs.transport`, with one queue and a thread pool."""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from celery import Celery, signals
from kombu.exceptions import OperationalError

from jobs.transport import get_worker_queue_name
from workers.settings import WorkerSettings


def build_worker(
    app: Celery,
    worker: WorkerSettings,
    *,
    on_ready: Callable[[], None],
    on_message: Callable[[], None],
    on_stop: Callable[[], None],
) -> Any:
    """Return a Celery worker that consumes this worker's queue. Its threads only supervise runners.

    `on_ready` is called once the worker is listening, `on_message` for every message, and `on_stop` when SIGTERM or
    SIGINT arrives; all three must return immediately.
    """
    app.conf.update(worker_redirect_stdouts=False, worker_enable_remote_control=False)
    # By default, Celery only keeps weak references to receivers.
    signals.worker_ready.connect(lambda **_: on_ready(), weak=False)
    signals.task_received.connect(lambda **_: on_message(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: on_stop(), weak=False)
    return app.Worker(
        hostname=f"{worker.id}@{socket.gethostname()}",
        pool="threads",
        concurrency=worker.slots,
        queues=[get_worker_queue_name(worker.id)],
        loglevel="INFO",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )


def reconnect(celery_worker: Any) -> None:
    """Make a running Celery worker replace its connection to Redis with a new one; callable from any thread."""

    def reset_connection() -> None:
        raise ConnectionResetError("messages are not arriving")

    celery_worker.consumer.call_soon(reset_connection)


def delete_queue(app: Celery, worker: WorkerSettings) -> None:
    """Delete the queue of a worker that has stopped, because nothing will ever read from it again.

    Attempts still in the queue were not claimed, so they will be sent to another worker. If Redis is unreachable, a
    small key is left behind.
    """
    with suppress(OperationalError, redis.RedisError, OSError), app.connection_for_write() as connection:
        connection.default_channel.queue_delete(get_worker_queue_name(worker.id))
