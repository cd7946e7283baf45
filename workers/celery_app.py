"""The Celery worker around the application of `jobs.transport`: one queue, a pool of threads."""

import socket
from collections.abc import Callable
from typing import Any

from celery import Celery, signals

from jobs.transport import worker_queue
from workers.settings import WorkerSettings


def build_worker(
    app: Celery, worker: WorkerSettings, *, on_ready: Callable[[], None], on_stop: Callable[[], None]
) -> Any:
    """A Celery worker for the worker's own queue. Threads suffice, for they only watch over runners.

    `on_ready` is called once it listens, `on_stop` when SIGTERM or SIGINT arrives; both must return at once.
    """
    app.conf.update(worker_redirect_stdouts=False, worker_enable_remote_control=False)
    # Celery holds receivers weakly by default.
    signals.worker_ready.connect(lambda **_: on_ready(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: on_stop(), weak=False)
    return app.Worker(
        hostname=f"{worker.id}@{socket.gethostname()}",
        pool="threads",
        concurrency=worker.slots,
        queues=[worker_queue(worker.id)],
        loglevel="INFO",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
