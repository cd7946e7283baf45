"""`python -m workers`: one worker, until SIGTERM or SIGINT."""

import logging
import os
import threading

from jobs.artifacts import open_store
from jobs.database import Database
from jobs.settings import Settings, read_settings_or_exit
from jobs.transport import Transport, Waker, celery_app
from workers.celery_app import build_worker, forget_queue
from workers.execution import Execution
from workers.heartbeat import Heartbeat
from workers.process import RunnerStarter
from workers.settings import WorkerSettings
from workers.tasks import install

log = logging.getLogger("workers")


def main() -> None:
    """Run the worker of this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(message)s")
    settings, worker = read_settings_or_exit(Settings), read_settings_or_exit(WorkerSettings)
    database = Database(settings.database)
    starter = RunnerStarter(worker)
    starter.warm_up()
    transport = Transport(settings)
    waker = Waker(transport.wake_dispatcher)
    execution = Execution(settings, worker, database, open_store(settings), starter, waker.wake)
    heartbeat = Heartbeat(database, settings, worker, waker.wake)
    app = celery_app(settings)
    install(app, execution)

    def stop() -> None:
        execution.drain()
        heartbeat.drain()
        _exit_in(worker.drain_seconds)

    log.info("%s starts, with %d slots for %s", worker.id, worker.slots, ", ".join(worker.kinds))
    build_worker(app, worker, on_ready=heartbeat.start, on_stop=stop).start()
    heartbeat.leave()
    forget_queue(app, worker)
    waker.close()
    transport.close()
    database.close()
    log.info("%s is gone", worker.id)


def _exit_in(seconds: float) -> None:
    """Leave after `seconds` whatever hangs, an unreachable server for example: what is lost then, leases repair."""
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
