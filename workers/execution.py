"""Runs attempts: claims them, watches over their runners, and records how they end."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import TypeVar

from sqlalchemy import Connection

from jobs.artifacts import ArtifactStore, Workspace
from jobs.database import Database
from jobs.service import attempts
from jobs.service.attempts import Claim, Order
from jobs.settings import Settings
from jobs.state import Event, JobState
from workers import failures
from workers.failures import Failure
from workers.lease import OUTAGES, Lease, LeaseOverError
from workers.logs import LogBudget
from workers.process import Runner, RunnerStarter
from workers.runner import Assignment, Failed, Finished, Progressed
from workers.settings import WorkerSettings

LISTEN_SECONDS = 0.2

log = logging.getLogger(__name__)

T = TypeVar("T")


class Verdict(Enum):
    """Why the worker ended a runner that was still at work."""

    STOPPED = auto()  # a user cancelled the job
    RELEASED = auto()  # this worker shuts down
    ABANDONED = auto()  # the attempt is no longer ours


Ending = Finished | Failed | Verdict


@dataclass(slots=True)
class _Watch:
    """One attempt under way."""

    claim: Claim
    lease: Lease
    runner: Runner
    ends_at: float
    budget: LogBudget
    last_word: Finished | Failed | None = None
    over_at: float | None = None


class Execution:
    """The attempts of one worker; `run` is called from a thread for each."""

    def __init__(
        self,
        settings: Settings,
        worker: WorkerSettings,
        database: Database,
        store: ArtifactStore,
        starter: RunnerStarter,
        wake_dispatcher: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._database = database
        self._store = store
        self._starter = starter
        self._wake_dispatcher = wake_dispatcher
        self._draining = threading.Event()

    def drain(self) -> None:
        """Take nothing more, and give back what runs."""
        self._draining.set()

    def run(self, attempt_id: str) -> None:
        """Run an attempt to its end; a message about one that is not ours to run does nothing."""
        if self._draining.is_set():
            with self._database.writing() as connection:
                attempts.take_back(connection, attempt_id, self._settings)
            return
        taken_at = time.monotonic()
        claim = self._claim(attempt_id)
        if claim is None:
            log.info("%s is not to be run (any more)", attempt_id)
            return
        log.info("%s: begins with %s job %s", attempt_id, claim.job.kind, claim.job.id)
        lease = Lease(
            attempt_id, taken_at=taken_at, database=self._database, settings=self._settings, worker=self._worker
        )
        with lease:
            try:
                self._attempt(claim, lease)
            except LeaseOverError:
                log.warning("%s: the database was away for too long, the attempt counts as lost", attempt_id)

    def _claim(self, attempt_id: str) -> Claim | None:
        """Claim the attempt, waiting out a short outage of the database."""
        gives_up_at = time.monotonic() + self._settings.pickup_seconds
        while True:
            try:
                with self._database.writing() as connection:
                    return attempts.claim(connection, attempt_id, self._worker.id, self._settings)
            except OUTAGES as error:
                if time.monotonic() > gives_up_at or self._draining.is_set():
                    raise
                log.warning("%s: cannot be claimed yet: %s", attempt_id, error)
                self._draining.wait(1)

    def _attempt(self, claim: Claim, lease: Lease) -> None:
        try:
            self._settle(claim, lease, self._supervise(claim, lease))
        except LeaseOverError:
            raise
        except Exception as error:
            log.exception("%s: the worker itself failed", claim.attempt.id)
            message = f"the worker could not run it: {type(error).__name__}: {error}"
            self._give_up(claim, lease, Event.STUMBLE, Failure("worker_error", message, permanent=False))

    def _supervise(self, claim: Claim, lease: Lease) -> Ending:
        """Watch over a runner until it is gone with all that it started."""
        runner = self._starter.start(Assignment(claim, self._settings, self._worker.threads_of_a_job))
        log.info("%s: runs as process group %d", claim.attempt.id, runner.pid)
        seconds = float(claim.job.spec["timeout_seconds"])
        watch = _Watch(claim, lease, runner, time.monotonic() + seconds, LogBudget(self._worker.log_bytes))
        verdict: Ending | None = None
        try:
            while not runner.silent and verdict is None and not self._lingers(watch):
                self._listen(watch, LISTEN_SECONDS)
                verdict = self._verdict(watch)
            runner.kill()
            while not runner.silent and self._listen(watch, 0):
                pass  # what it had printed before
        finally:
            runner.close(self._worker.exit_seconds)
        return verdict or watch.last_word or Failed(failures.death(runner.exit_code))

    def _verdict(self, watch: _Watch) -> Ending | None:
        """Whether the runner must be ended now."""
        match watch.lease.order:
            case Order.STOP:
                return Verdict.STOPPED
            case Order.ABANDON:
                return Verdict.ABANDONED
            case Order.CONTINUE:
                pass
        if watch.last_word is not None:
            return None
        if self._draining.is_set():
            return Verdict.RELEASED
        if time.monotonic() >= watch.ends_at:
            return Failed(failures.timeout(float(watch.claim.job.spec["timeout_seconds"])))
        return None

    def _lingers(self, watch: _Watch) -> bool:
        """Whether the runner said its last word or ended a while ago, and still something holds its pipes open."""
        if watch.runner.exit_code is not None:
            watch.runner.kill()  # what it has started and left behind
        elif watch.last_word is None:
            return False
        if watch.over_at is None:
            watch.over_at = time.monotonic()
        return time.monotonic() - watch.over_at > self._worker.exit_seconds

    def _listen(self, watch: _Watch, timeout: float) -> int:
        """Relay what the runner says; returns how much it was."""
        heard = 0
        for said in watch.runner.listen(timeout):
            heard += 1
            match said:
                case Progressed():
                    watch.lease.record_progress(asdict(said))
                case Finished() | Failed():
                    watch.last_word = said
                case (stream, lines):
                    if kept := watch.budget.admit(lines):
                        watch.lease.record_lines(stream, kept)
        return heard

    def _settle(self, claim: Claim, lease: Lease, ending: Ending) -> None:
        """Record how the attempt ended, and tidy up behind it."""
        match ending:
            case Finished():
                self._publish(claim, lease, ending)
            case Failed(failure):
                self._give_up(claim, lease, Event.FAIL if failure.permanent else Event.STUMBLE, failure)
            case Verdict.RELEASED:
                self._give_up(claim, lease, Event.RELEASE)
            case Verdict.STOPPED:
                self._give_up(claim, lease, Event.STOP)
            case Verdict.ABANDONED:
                log.warning("%s: is no longer ours, abandoned", claim.attempt.id)
                self._delete(Workspace(claim.job.id, claim.attempt.id).output)

    def _publish(self, claim: Claim, lease: Lease, finished: Finished) -> None:
        attempt_id = claim.attempt.id

        def succeed(connection: Connection) -> bool:
            # The answer to an earlier commit may have been lost on its way.
            return attempts.has_succeeded(connection, attempt_id) or attempts.succeed(
                connection,
                attempt_id,
                self._worker.id,
                self._settings,
                result=finished.outcome.result.model_dump(mode="json"),
                stored=finished.stored,
                model=finished.outcome.model,
            )

        own = Workspace(claim.job.id, claim.attempt.id)
        if self._end(lease, succeed):
            log.info("%s: succeeded", attempt_id)
            self._delete(own.checkpoints, *self._workspaces(claim)[1:])
        else:
            log.warning("%s: cancelled or superseded, nothing is published", attempt_id)
            self._delete(own.output)

    def _give_up(self, claim: Claim, lease: Lease, event: Event, failure: Failure | None = None) -> None:
        """End the attempt without a result; what a later attempt may resume from stays, unless a user cancelled."""
        attempt_id = claim.attempt.id
        error = failure.error() if failure else None
        state = self._end(
            lease,
            lambda connection: attempts.end(
                connection, attempt_id, self._worker.id, event, self._settings, error=error
            ),
        )
        log.info("%s: %s, the job is %s %s", attempt_id, event, state or "another worker's", error or "")
        output = Workspace(claim.job.id, attempt_id).output
        self._delete(*self._workspaces(claim) if state is JobState.CANCELLED else (output,))

    def _end(self, lease: Lease, ending: Callable[[Connection], T]) -> T:
        """End the attempt, and say at once that a slot is free: the next job need not wait for the next poll."""
        ended = lease.settle(ending)
        self._wake_dispatcher()
        return ended

    def _workspaces(self, claim: Claim) -> list[str]:
        """Keys of all that was written for the job, this attempt's first."""
        ids = (claim.attempt.id, *claim.earlier_attempts)
        return [Workspace(claim.job.id, attempt_id).key for attempt_id in ids]

    def _delete(self, *keys: str) -> None:
        for key in keys:
            try:
                self._store.delete(key)
            except Exception:
                log.warning("%s could not be deleted", key, exc_info=True)
