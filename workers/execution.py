"""Runs attempts: claims them, supervises their runners, and records how they end."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from jobs.artifacts import get_cache_folder
from jobs.chats.serving import ChatExchange
from jobs.database import OUTAGE_ERRORS, Database
from jobs.service import attempts
from jobs.service.attempts import ClaimStatus, Directive
from jobs.service.claims import Claim
from jobs.service.dispatching import requeue_job
from jobs.settings import Settings
from jobs.state import Event, JobState
from workers.environment import get_hub_token, select_store_variables
from workers.failures import Failure
from workers.lease import Lease, LeaseExpiredError
from workers.messages import Assignment, Failed, Finished, ModelKept, Storage
from workers.process import Runner
from workers.rendezvous import choose_address
from workers.residents import Residents
from workers.settings import WorkerSettings
from workers.starting import RunnerStarter
from workers.supervision import AttemptOutcome, RunnerSupervisor, StopReason

NODE_POLL_SECONDS = 0.2

log = logging.getLogger(__name__)

T = TypeVar("T")


class AttemptExecutor:
    """Runs the attempts of one worker; `run` is called in a separate thread for each attempt."""

    def __init__(
        self,
        settings: Settings,
        worker: WorkerSettings,
        database: Database,
        starter: RunnerStarter,
        residents: Residents,
        exchange: ChatExchange,
        wake_dispatcher: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._database = database
        self._starter = starter
        self._residents = residents
        self._exchange = exchange
        self._wake_dispatcher = wake_dispatcher
        self._draining = threading.Event()
        self._runners: set[int] = set()
        self._hub_token = get_hub_token(os.environ)
        self._storage = Storage(
            artifact_root=settings.effective_artifact_root,
            cache=get_cache_folder(settings).resolve(),
            cache_bytes=settings.cache_bytes,
            variables=select_store_variables(os.environ),
            model_roots=settings.allowed_model_roots,
            free_space_reserve_bytes=settings.free_space_reserve_bytes,
        )

    def list_process_groups(self) -> frozenset[int]:
        """Return the process groups of all runners."""
        return frozenset(self._runners) | self._residents.list_process_groups()

    def drain(self) -> None:
        """Stop taking attempts, release the running ones, and keep no models loaded."""
        self._draining.set()
        self._residents.drain()

    def run(self, attempt_id: str) -> None:
        """Run an attempt until it ends, or skip it if it is not (or no longer) assigned to this worker."""
        if self._draining.is_set():
            self._requeue(attempt_id)
            return
        taken_at = time.monotonic()
        claim = self._claim(attempt_id)
        if claim is None:
            log.info("%s: skipped, because it is not (or no longer) assigned to this worker", attempt_id)
            return
        log.info("%s: starting %s job %s", attempt_id, claim.job.kind, claim.job.id)
        lease = Lease(
            attempt_id, taken_at=taken_at, database=self._database, settings=self._settings, worker=self._worker
        )
        with lease:
            try:
                self._run_attempt(claim, lease)
            except LeaseExpiredError:
                log.warning("%s: the database was unreachable for too long, so the attempt counts as lost", attempt_id)

    def _claim(self, attempt_id: str) -> Claim | None:
        """Claim the attempt; wait out a short database outage, and wait for the attempt's other nodes."""
        gives_up_at = time.monotonic() + self._settings.pickup_seconds
        answer: Claim | ClaimStatus | None = ClaimStatus.NOT_BEGUN
        while True:
            try:
                with self._database.writing() as connection:
                    if answer is ClaimStatus.NOT_BEGUN:
                        answer = attempts.claim(
                            connection, attempt_id, self._worker.id, self._settings, self._choose_rendezvous_address
                        )
                    else:
                        answer = attempts.poll_claim(connection, attempt_id, self._worker.id, self._settings)
                if not isinstance(answer, ClaimStatus):
                    return answer
                if self._draining.wait(NODE_POLL_SECONDS):
                    self._requeue(attempt_id)
                    return None
            except OUTAGE_ERRORS as error:
                if time.monotonic() > gives_up_at or self._draining.is_set():
                    raise
                log.warning("%s: could not claim the attempt, trying again: %s", attempt_id, error)
                self._draining.wait(1)

    def _choose_rendezvous_address(self) -> str:
        return choose_address(self._worker.address, self._settings.effective_redis_url)

    def _requeue(self, attempt_id: str) -> None:
        with self._database.writing() as connection:
            requeue_job(connection, attempt_id, self._settings)

    def _run_attempt(self, claim: Claim, lease: Lease) -> None:
        try:
            self._record_outcome(claim, lease, self._supervise(claim, lease))
        except LeaseExpiredError:
            raise
        except Exception as error:
            log.exception("%s: unexpected error in the worker", claim.attempt.id)
            message = f"the worker could not run the attempt: {type(error).__name__}: {error}"
            self._end_without_result(claim, lease, Event.STUMBLE, Failure("worker_error", message, permanent=False))

    def _supervise(self, claim: Claim, lease: Lease) -> AttemptOutcome:
        """Run the attempt on a resident that has its model loaded, or on a new runner."""
        keep = self._worker.keep_seconds > 0
        token = self._hub_token if claim.spec.uses_hub else None
        assignment = Assignment(claim, self._storage, self._worker.threads_per_job, keep, token)
        resident = self._residents.begin_attempt(claim)
        remains: tuple[Runner, ModelKept] | tuple[None, None] = None, None
        try:
            for runner in [resident.runner, None] if resident else [None]:
                supervisor = RunnerSupervisor(claim, lease, self._worker, self._draining, self._runners, self._exchange)
                outcome = supervisor.watch(self._starter.start(assignment, runner))
                if not supervisor.died_without_message:
                    break  # otherwise the resident died before it received the attempt: use a new runner
            remains = supervisor.remains or remains
        finally:
            self._residents.end_attempt(claim, resident, *remains)
        return outcome

    def _record_outcome(self, claim: Claim, lease: Lease, outcome: AttemptOutcome) -> None:
        """Record how the attempt ended."""
        match outcome:
            case Finished() if claim.allocation.node > 0:
                self._await_first_node(claim, lease)
            case Finished():
                self._publish(claim, lease, outcome)
            case Failed(failure):
                self._end_without_result(claim, lease, Event.FAIL if failure.permanent else Event.STUMBLE, failure)
            case StopReason.RELEASED:
                self._end_without_result(claim, lease, Event.RELEASE)
            case StopReason.STOPPED:
                self._end_without_result(claim, lease, Event.STOP)
            case StopReason.ABANDONED:
                log.warning("%s: abandoned, because this worker no longer holds the lease", claim.attempt.id)

    def _await_first_node(self, claim: Claim, lease: Lease) -> None:
        """Keep this node's lease until the first node has published; the attempt needs the leases of all its nodes."""
        log.info("%s: node %d has finished", claim.attempt.id, claim.allocation.node)
        while lease.directive in (Directive.CONTINUE, Directive.YIELD):
            time.sleep(NODE_POLL_SECONDS)

    def _publish(self, claim: Claim, lease: Lease, finished: Finished) -> None:
        attempt_id = claim.attempt.id

        def succeed(connection: Connection) -> bool:
            # An earlier commit may have succeeded even if its reply was lost.
            if attempts.has_succeeded(connection, attempt_id):
                return True
            held = lease.lock_attempt(connection)
            outcome = finished.outcome
            result = outcome.result.model_dump(mode="json")
            return held is not None and held.succeed(result, finished.stored, outcome.model)

        if self._end_attempt(lease, succeed):
            log.info("%s: succeeded", attempt_id)
        else:
            log.warning("%s: cancelled or superseded, so nothing was published", attempt_id)

    def _end_without_result(self, claim: Claim, lease: Lease, event: Event, failure: Failure | None = None) -> None:
        """End the attempt without a result."""
        attempt_id = claim.attempt.id
        error = failure.to_job_error() if failure else None

        def end(connection: Connection) -> JobState | None:
            held = lease.lock_attempt(connection)
            return held.end(event, error) if held else None

        state = self._end_attempt(lease, end)
        log.info("%s: %s, the job is %s %s", attempt_id, event, state or "another worker's", error or "")

    def _end_attempt(self, lease: Lease, ending: Callable[[Connection], T]) -> T:
        """End the attempt and report at once that a slot is free, so that the next job need not wait for a poll."""
        ended = lease.end_attempt(ending)
        self._wake_dispatcher()
        return ended
