"""Entry point of `python -m workers`: runs one worker until SIGTERM or SIGINT arrives."""

import logging
import os
import signal
import sys
import threading

from jobs.artifacts import open_store
from jobs.chats.serving import ChatExchange
from jobs.database import Database
from jobs.settings import Settings, read_settings_or_exit
from jobs.transport import Announcer, Transport, Waker, create_celery_app
from workers.celery_app import build_worker, delete_queue, reconnect
from workers.delivery_watch import DeliveryWatch
from workers.execution import AttemptExecutor
from workers.heartbeat import Heartbeat, describe_worker
from workers.inventory import Inventory
from workers.residents import Residents
from workers.settings import WorkerSettings
from workers.starting import RunnerStarter
from workers.tasks import register_task
from workers.tidying import DiskCleaner

log = logging.getLogger("workers")


def main() -> None:
    """Run a worker in this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(message)s")
    settings, worker = read_settings_or_exit(Settings), read_settings_or_exit(WorkerSettings)
    inventory = Inventory(worker.devices)
    worker = worker.model_copy(update={"slots": inventory.choose_slot_count(worker.slots)})
    database = Database(settings.effective_database_url)
    starter = RunnerStarter(worker)
    starter.warm_up()

    def report_soon() -> None:
        heartbeat.report_soon()

    residents = Residents(worker, inventory, report_soon)
    transport = Transport(settings)
    waker = Waker(transport.wake_dispatcher)
    announcer = Announcer(transport.announce)
    database.on_news = announcer.add
    exchange = ChatExchange(settings.effective_redis_url)
    execution = AttemptExecutor(settings, worker, database, starter, residents, exchange, waker.wake)
    tidying = DiskCleaner(database, open_store(settings), settings)

    def stop() -> None:
        execution.drain()
        heartbeat.drain()
        _exit_after(worker.drain_seconds)

    def give_up() -> None:
        stop()
        os.kill(os.getpid(), signal.SIGTERM)

    delivery_watch = DeliveryWatch(lambda: reconnect(celery_worker), give_up)
    heartbeat = Heartbeat(
        database,
        settings,
        lambda: describe_worker(worker, inventory, execution.list_process_groups(), residents),
        waker.wake,
        delivery_watch,
        residents,
    )
    app = create_celery_app(settings)
    register_task(app, execution)
    celery_worker = build_worker(
        app, worker, on_ready=heartbeat.start, on_message=delivery_watch.record_message, on_stop=stop
    )
    log.info("%s is starting, with %d slots for %s", worker.id, worker.slots, ", ".join(worker.kinds))
    tidying.start()
    residents.start()
    celery_worker.start()
    tidying.stop()
    residents.close()
    heartbeat.sign_off()
    delete_queue(app, worker)
    exchange.close()
    waker.close()
    announcer.close()
    transport.close()
    database.close()
    log.info("%s has stopped", worker.id)
    if delivery_watch.is_lost:
        sys.exit(1)


def _exit_after(seconds: float) -> None:
    """Exit after `seconds`, even if an unreachable database or Redis blocks the shutdown.

    Leases that are still held will expire.
    """
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
