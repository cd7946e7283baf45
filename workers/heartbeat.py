"""Reports to the dispatcher that this worker is alive and which resources it has."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from jobs.database import Database, now_ms
from jobs.health import get_unclaimed_seconds
from jobs.records import WorkerRecord
from jobs.service import workers
from jobs.settings import Settings
from workers.delivery_watch import DeliveryWatch
from workers.inventory import Inventory, find_packages, read_host_resources
from workers.residents import Residents
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)


class Heartbeat:
    """A thread that regularly reports this worker's state and resources, and waits out any database outage."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        describe: Callable[[], WorkerRecord],
        wake_dispatcher: Callable[[], None],
        delivery_watch: DeliveryWatch,
        residents: Residents,
    ) -> None:
        self._database = database
        self._settings = settings
        self._describe = describe
        self._wake_dispatcher = wake_dispatcher
        self._delivery_watch = delivery_watch
        self._residents = residents
        self._worker_id = describe().id
        self._started_at = 0
        self._state = "active"
        self._due = threading.Event()
        self._leaving = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Register the worker and start reporting; a second call does nothing."""
        if not self._thread.is_alive() and not self._leaving:
            self._thread.start()

    def report_soon(self) -> None:
        """Report now instead of after the usual interval."""
        self._due.set()

    def drain(self) -> None:
        """Report at once that this worker accepts no more attempts."""
        self._state = "draining"
        self._due.set()

    def sign_off(self) -> None:
        """Report that this worker has stopped."""
        self._leaving = True
        self._due.set()
        if not self._thread.ident:
            return
        self._thread.join()
        try:
            with self._database.writing() as connection:
                workers.sign_off(connection, self._worker_id)
        except Exception as error:  # noqa: BLE001 - the worker counts as gone after a few missed heartbeats anyway
            log.warning("could not report that this worker has stopped: %s", error)

    def _run(self) -> None:
        while not self._leaving:
            self._due.clear()
            self._report()
            self._due.wait(self._settings.heartbeat_seconds)

    def _report(self) -> None:
        try:
            described = self._describe()
            with self._database.writing() as connection:
                started_at = self._started_at or now_ms(connection)
                orders = workers.record_heartbeat(
                    connection, replace(described, state=self._state, started_at=started_at)
                )
                unclaimed = get_unclaimed_seconds(connection, self._worker_id, self._settings)
            if not self._started_at:
                self._started_at = started_at
                self._wake_dispatcher()  # jobs may be waiting for this worker
            self._residents.close_unwanted(
                may_keep=not orders.is_drained, obsolete=orders.obsolete_models, devices=described.devices
            )
            if self._state == "active":
                self._delivery_watch.check_delivery(unclaimed)
        except Exception as error:  # noqa: BLE001 - the worker must survive any database outage
            log.warning("cannot write the heartbeat to the database, trying again: %s", error)


def describe_worker(
    worker: WorkerSettings, inventory: Inventory, runners: Collection[int], residents: Residents
) -> WorkerRecord:
    """Return a worker's current state and resources for its heartbeat.

    Args:
        worker: The worker's settings, with the number of slots resolved.
        inventory: The worker's devices.
        runners: Process groups of the worker's runners, whose memory on a device does not count as used by others.
        residents: The worker's runners that keep a model loaded.
    """
    return WorkerRecord(
        id=worker.id,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        state="active",
        kinds=list(worker.kinds),
        slots=worker.slots,
        devices=inventory.list_devices(runners),
        started_at=0,
        seen_at=0,
        host=read_host_resources() | {"packages": find_packages()},
        labels=worker.labels,
        models=residents.report(),
    )
