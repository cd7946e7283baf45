"""The dispatcher: takes queued jobs out of SQL and sends them to workers. One leads, any number stand by."""

import logging
import signal
import threading
import time
from collections.abc import Sequence

from jobs.database import Database, now_ms
from jobs.identifiers import new_id
from jobs.reaper import reap
from jobs.repository import attempts, jobs, workers
from jobs.scheduling import FreeWorker, Placement, WaitingJob, place
from jobs.service.attempts import dispatch, take_back
from jobs.service.workers import alive
from jobs.settings import Settings, read_settings_or_exit
from jobs.state import AttemptState
from jobs.transport import BrokerUnreachableError, Transport

LEASE = "dispatcher"
LEASE_MS = 5_000
RENEW_BELOW_MS = LEASE_MS * 2 // 3  # a renewal is a commit, so a third of the lease passes before the next one
LOOK_AHEAD = 64

log = logging.getLogger(__name__)


class Dispatcher:
    """One process of the dispatcher."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database)
        self._transport = Transport(settings)
        self._holder = new_id("dsp")
        self._stopping = threading.Event()
        self._expired_at: dict[str, float] = {}
        self._seen_at: tuple[float, float] | None = None
        self._patient_until = 0.0
        self._outage: type[Exception] | None = None

    def run(self) -> None:
        """Work until `stop` is called; outages of the database or of Redis are waited out."""
        while not self._stopping.is_set():
            try:
                if self._leads():
                    self.repair()
                    self.dispatch_waiting()
                self._transport.wait_for_work()
                self._outage = None
            except BrokerUnreachableError as error:
                self._pause("Redis is unreachable, jobs wait in the database: %s", error)
            except Exception as error:  # noqa: BLE001 - a dispatcher must outlive any outage of its database
                self._pause("the dispatcher tries again: %s", error)
        self._resign()

    def stop(self) -> None:
        """End `run` after what it is doing."""
        self._stopping.set()

    def repair(self) -> None:
        """End what is overdue, and note which workers did not take what was sent to them."""
        if time.monotonic() < self._patient_until:
            return
        for attempt in reap(self._database, self._settings):
            if attempt.state == AttemptState.DISPATCHED:
                self._expired_at[attempt.worker_id] = time.monotonic()

    def dispatch_waiting(self) -> int:
        """Place and send what can start now; returns how many were sent.

        Raises:
            BrokerUnreachableError: Redis does not answer; what was not sent is queued again.
        """
        placements = self._placements()
        if not placements:
            return 0
        if not self._transport.reachable():  # else each try of a long outage would leave an attempt and two events
            raise BrokerUnreachableError("it does not answer PING")
        with self._database.writing() as connection:
            tried = [(p, dispatch(connection, p.job_id, p.worker_id, self._settings)) for p in placements]
        made = [(placement, attempt_id) for placement, attempt_id in tried if attempt_id]
        self._send(made)
        return len(made)

    def _placements(self) -> list[Placement]:
        with self._database.reading() as connection:
            present = alive(connection, self._settings)
            busy = attempts.open_by_worker(connection)
            free = [
                FreeWorker(
                    worker.id,
                    frozenset(worker.kinds),
                    worker.slots - busy.get(worker.id, 0),
                    self._expired_lately(worker.id),
                )
                for worker in present
                if worker.state == "active" and worker.slots > busy.get(worker.id, 0)
            ]
            if not free:
                return []
            kinds = frozenset[str]().union(*(worker.kinds for worker in free))  # the others must not fill the view
            queued = jobs.queued(connection, kinds, now=now_ms(connection), limit=LOOK_AHEAD)
        return place([WaitingJob(job.id, job.kind, job.priority) for job in queued], free)

    def _expired_lately(self, worker_id: str) -> bool:
        expired_at = self._expired_at.get(worker_id)
        return expired_at is not None and time.monotonic() - expired_at < self._settings.lease_seconds

    def _send(self, made: Sequence[tuple[Placement, str]]) -> None:
        for position, (placement, attempt_id) in enumerate(made):
            try:
                self._transport.send_attempt(placement.worker_id, attempt_id)
            except BrokerUnreachableError:
                with self._database.writing() as connection:
                    for _, unsent in made[position:]:
                        take_back(connection, unsent, self._settings)
                raise
            log.info("%s goes to %s as %s", placement.job_id, placement.worker_id, attempt_id)

    def _leads(self) -> bool:
        with self._database.reading() as connection:
            now = now_ms(connection)
            lease = workers.get_lease(connection, LEASE)
        self._note_jump(now)
        if lease is not None and 0 <= lease[1] - now <= LEASE_MS:  # more would be from before the clock was set back
            if lease[0] != self._holder:
                return False
            if lease[1] - now >= RENEW_BELOW_MS:
                return True
        with self._database.writing() as connection:
            now = now_ms(connection)
            return workers.hold_lease(connection, LEASE, self._holder, now=now, expires_at=now + LEASE_MS)

    def _note_jump(self, now: int) -> None:
        """Give workers time to renew when the clock leapt: it was set, or the machine slept with all that ran on it."""
        seen, passed = now / 1000, time.monotonic()
        if self._seen_at and seen - self._seen_at[0] - (passed - self._seen_at[1]) > self._settings.heartbeat_seconds:
            self._patient_until = passed + self._settings.lease_seconds
            log.warning("the clock leapt forward; leases are given another %g s", self._settings.lease_seconds)
        self._seen_at = seen, passed

    def _resign(self) -> None:
        try:
            with self._database.writing() as connection:
                workers.drop_lease(connection, LEASE, self._holder)
        finally:
            self._transport.close()
            self._database.close()

    def _pause(self, message: str, error: Exception) -> None:
        if type(error) is not self._outage:  # once an outage, not once a second
            log.warning(message, error, exc_info=not isinstance(error, BrokerUnreachableError))
        self._outage = type(error)
        self._stopping.wait(1)


def main() -> None:
    """`python -m jobs.dispatcher`: run until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s dispatcher %(levelname)s %(message)s")
    dispatcher = Dispatcher(read_settings_or_exit(Settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: dispatcher.stop())
    log.info("ready")
    dispatcher.run()


if __name__ == "__main__":
    main()
