"""The dispatcher: reads queued jobs from SQL and sends them to workers. One dispatcher leads; any others stand by."""

import logging
import signal
import threading
import time
from collections.abc import Sequence

from jobs.database import Database, now_ms
from jobs.identifiers import new_id
from jobs.maintenance import BulkOperationRunner, Janitor
from jobs.maintenance.reaper import reap_overdue_attempts
from jobs.records import QueuedJob
from jobs.repository import jobs, workers
from jobs.scheduling import Placement, PlacementRound, Requirement, WaitingJob, explain_wait, place_jobs
from jobs.service.dispatching import dispatch_job, requeue_job
from jobs.service.pool import read_machines
from jobs.settings import Settings, read_settings_or_exit
from jobs.transport import Announcer, BrokerUnreachableError, Transport

LEASE_NAME = "dispatcher"
LEASE_MS = 5_000
RENEW_BELOW_MS = LEASE_MS * 2 // 3  # every renewal is a commit, so renew only once a third of the lease has passed
LOOKAHEAD_JOBS = 1000
EXPLAIN_INTERVAL_SECONDS = 2.0  # seconds between updates of the reasons why jobs are waiting

log = logging.getLogger(__name__)


class Dispatcher:
    """One dispatcher process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.effective_database_url)
        self._transport = Transport(settings)
        self._announcer = Announcer(self._transport.announce)
        self._database.on_news = self._announcer.add
        self._janitor = Janitor(self._database, settings)
        self._bulk_operations = BulkOperationRunner(self._database, settings)
        self._holder = new_id("dsp")
        self._stopping = threading.Event()
        self._expired_at: dict[str, float] = {}
        self._seen_at: tuple[float, float] | None = None
        self._patient_until = 0.0
        self._explain_at = 0.0
        self._outage: type[Exception] | None = None

    def run(self) -> None:
        """Run until `stop` is called; keep retrying while the database or Redis is down."""
        while not self._stopping.is_set():
            try:
                if self._hold_lease():
                    self.end_overdue_attempts()
                    self._janitor.start_if_due()
                    self._bulk_operations.start_if_due()
                    self.dispatch_waiting()
                self._transport.wait_for_work()
                self._outage = None
            except BrokerUnreachableError as error:
                self._wait_after_failure("Redis is unreachable; jobs wait in the database: %s", error)
            except Exception as error:  # noqa: BLE001 - the dispatcher must survive any database outage
                self._wait_after_failure("the dispatcher failed and will retry: %s", error)
        self._shut_down()

    def stop(self) -> None:
        """Make `run` return after its current iteration."""
        self._stopping.set()

    def end_overdue_attempts(self) -> None:
        """End overdue attempts, and remember which workers did not claim theirs."""
        if time.monotonic() < self._patient_until:
            return
        for ended in reap_overdue_attempts(self._database, self._settings):
            if not ended.claimed:
                self._expired_at[ended.worker_id] = time.monotonic()

    def dispatch_waiting(self) -> int:
        """Place and send the jobs that can start now; return how many were sent.

        Raises:
            BrokerUnreachableError: Redis is not responding; jobs that were not sent are requeued.
        """
        queued, decided = self._place_queued_jobs()
        self._record_waiting_reasons(queued, decided)
        if not decided.placements:
            return 0
        # Without this check, each retry during an outage would add an attempt and two events.
        if not self._transport.is_reachable():
            raise BrokerUnreachableError("no reply to PING")
        with self._database.writing() as connection:
            tried = [(placed, dispatch_job(connection, placed, self._settings)) for placed in decided.placements]
        made = [(placement, attempt_id) for placement, attempt_id in tried if attempt_id]
        self._send_attempts(made)
        return len(made)

    def _place_queued_jobs(self) -> tuple[list[QueuedJob], PlacementRound]:
        """Read the pool and the queue, and place the jobs that can start now."""
        with self._database.reading() as connection:
            queued = jobs.list_queued(connection, now=now_ms(connection), limit=LOOKAHEAD_JOBS)
            if not queued:
                return [], PlacementRound([], [], [])
            silent = {worker for worker in self._expired_at if self._has_recent_expiry(worker)}
            machines = read_machines(connection, self._settings, expired_lately=silent)
        waiting = [WaitingJob(j.id, j.kind, j.priority, Requirement.from_row(j.requirement)) for j in queued]
        return queued, place_jobs(waiting, machines)

    def _record_waiting_reasons(self, queued: Sequence[QueuedJob], decided: PlacementRound) -> None:
        """Record why each job is waiting if the reason has changed."""
        if time.monotonic() < self._explain_at:
            return
        self._explain_at = time.monotonic() + EXPLAIN_INTERVAL_SECONDS
        known = {job.id: job.waiting for job in queued}
        kinds = {(job.kind, job.requirement): job for job in decided.left}
        explained = {same: explain_wait(job, decided.rooms).to_row() for same, job in kinds.items()}
        reasons = {job.id: explained[job.kind, job.requirement] for job in decided.left}
        changed = {job_id: reason for job_id, reason in reasons.items() if known[job_id] != reason}
        if changed:
            with self._database.writing() as connection:
                jobs.set_waiting_reasons(connection, changed)

    def _has_recent_expiry(self, worker_id: str) -> bool:
        expired_at = self._expired_at.get(worker_id)
        return expired_at is not None and time.monotonic() - expired_at < self._settings.lease_seconds

    def _send_attempts(self, made: Sequence[tuple[Placement, str]]) -> None:
        for position, (placement, attempt_id) in enumerate(made):
            try:
                for node in placement.nodes:
                    self._transport.send_attempt(node.worker_id, attempt_id)
            except BrokerUnreachableError:
                with self._database.writing() as connection:
                    for _, unsent in made[position:]:
                        requeue_job(connection, unsent, self._settings)
                raise
            names = " and ".join(node.worker_id for node in placement.nodes)
            log.info("job %s was sent to worker %s as attempt %s", placement.job_id, names, attempt_id)

    def _hold_lease(self) -> bool:
        with self._database.reading() as connection:
            now = now_ms(connection)
            lease = workers.get_lease(connection, LEASE_NAME)
        self._detect_clock_jump(now)
        # If more than LEASE_MS is left, the clock was set back.
        if lease is not None and 0 <= lease[1] - now <= LEASE_MS:
            if lease[0] != self._holder:
                return False
            if lease[1] - now >= RENEW_BELOW_MS:
                return True
        with self._database.writing() as connection:
            now = now_ms(connection)
            return workers.hold_lease(connection, LEASE_NAME, self._holder, now=now, expires_at=now + LEASE_MS)

    def _detect_clock_jump(self, now: int) -> None:
        """Give workers extra time to renew their leases if the clock jumped forward.

        A jump means that somebody set the clock, or that the machine was suspended.
        """
        seen, passed = now / 1000, time.monotonic()
        if self._seen_at and seen - self._seen_at[0] - (passed - self._seen_at[1]) > self._settings.heartbeat_seconds:
            self._patient_until = passed + self._settings.lease_seconds
            log.warning(
                "the clock jumped forward; workers have another %g s to renew their leases",
                self._settings.lease_seconds,
            )
        self._seen_at = seen, passed

    def _shut_down(self) -> None:
        self._janitor.stop()
        self._bulk_operations.stop()
        try:
            with self._database.writing() as connection:
                workers.release_lease(connection, LEASE_NAME, self._holder)
        finally:
            self._announcer.close()
            self._transport.close()
            self._database.close()

    def _wait_after_failure(self, message: str, error: Exception) -> None:
        if type(error) is not self._outage:  # log once per outage, not once a second
            log.warning(message, error, exc_info=not isinstance(error, BrokerUnreachableError))
        self._outage = type(error)
        self._stopping.wait(1)


def main() -> None:
    """Run the dispatcher until SIGTERM or SIGINT arrives."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s dispatcher %(levelname)s %(message)s")
    dispatcher = Dispatcher(read_settings_or_exit(Settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: dispatcher.stop())
    log.info("ready")
    dispatcher.run()


if __name__ == "__main__":
    main()
