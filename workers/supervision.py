"""Supervises the runner of one attempt: relays its messages and ends the runner unless it stays for another attempt."""

import logging
import threading
import time
from enum import Enum, auto

from jobs.chats.messages import Call
from jobs.chats.serving import ChatExchange, ServedAttempt
from jobs.service.attempts import Directive
from jobs.service.claims import Claim
from workers import failures
from workers.failures import Failure
from workers.lease import Lease
from workers.logs import LogBudget
from workers.messages import Failed, Finished, Measured, ModelKept, Paused, Progressed, Replied, ServingChanged
from workers.process import Runner
from workers.settings import WorkerSettings
from workers.starting import StartingRunner

LISTEN_TIMEOUT_SECONDS = 0.2

log = logging.getLogger(__name__)


class StopReason(Enum):
    """The reason the worker ended a runner that was still working."""

    STOPPED = auto()  # a user cancelled the job
    RELEASED = auto()  # the job releases its devices, for example because this worker is shutting down
    ABANDONED = auto()  # this worker no longer holds the attempt


IMMEDIATE_STOP_REASONS = {Directive.STOP: StopReason.STOPPED, Directive.ABANDON: StopReason.ABANDONED}

AttemptOutcome = Finished | Failed | StopReason


class RunnerSupervisor:
    """Supervises one attempt. Directives, draining and time limits apply even while the runner is starting.

    Attributes:
        died_without_message: Whether the runner exited by itself without sending a message; set when the attempt is
            over.
        remains: The runner and the model that it keeps loaded, if it waits for another attempt; set when the attempt is
            over.
    """

    def __init__(
        self,
        claim: Claim,
        lease: Lease,
        worker: WorkerSettings,
        draining: threading.Event,
        runners: set[int],
        exchange: ChatExchange,
    ) -> None:
        self._attempt_id = claim.attempt.id
        self._timeout_seconds = float(claim.spec.timeout_seconds)
        self._lease = lease
        self._worker = worker
        self._draining = draining
        self._runners = runners
        self._budget = LogBudget(worker.log_bytes)
        self._exchange = exchange
        self._served: ServedAttempt | None = None
        self._can_pause = claim.spec.can_pause or claim.spec.hands_over
        self._pause_ends_at: float | None = None
        self._makes_room = False
        self._final_message: Finished | Failed | Paused | None = None
        self._over_at: float | None = None
        self._has_heard = False
        self.died_without_message = False
        self.remains: tuple[Runner, ModelKept] | None = None
        self._set_time_limit(worker.start_seconds, failures.make_start_timeout_failure(worker.start_seconds))

    def watch(self, starting: StartingRunner) -> AttemptOutcome:
        """Watch until the attempt is over and its runner has exited with all its children or been put in `remains`."""
        while (runner := starting.wait(LISTEN_TIMEOUT_SECONDS)) is None:
            if (reason := self._find_stop_reason(None)) is not None:
                starting.abandon()
                return reason
        log.info("%s: running as process group %d", self._attempt_id, runner.pid)
        self._set_time_limit(self._timeout_seconds, failures.make_timeout_failure(self._timeout_seconds))
        self._runners.add(runner.pid)
        try:
            reason = self._watch_runner(runner)
        finally:
            self._end_chats()
            if self.remains is None:
                runner.close(self._worker.exit_seconds)
            self._runners.discard(runner.pid)
        self.died_without_message = reason is None and not self._has_heard
        if isinstance(self._final_message, Paused):
            return reason or StopReason.RELEASED
        return reason or self._final_message or Failed(failures.make_runner_exit_failure(runner.exit_code))

    def _set_time_limit(self, seconds: float, failure: Failure) -> None:
        self._ends_at = time.monotonic() + seconds
        self._too_late = Failed(failure)

    def _watch_runner(self, runner: Runner) -> AttemptOutcome | None:
        reason: AttemptOutcome | None = None
        while not runner.is_silent and reason is None and self._kept_model is None and not self._is_lingering(runner):
            self._listen(runner, LISTEN_TIMEOUT_SECONDS)
            reason = self._find_stop_reason(runner)
        stays = reason is None and self._kept_model is not None
        if not stays:
            runner.kill()
        while not runner.is_silent and self._listen(runner, 0):
            pass  # read what the runner printed before it exited
        for stream, lines in runner.take_unfinished_lines():
            self._record_lines(stream, lines)
        if stays and self._kept_model is not None:
            self.remains = runner, self._kept_model
        return reason

    @property
    def _kept_model(self) -> ModelKept | None:
        """The model that the runner keeps loaded after its final message."""
        return self._final_message.kept if isinstance(self._final_message, Finished | Failed) else None

    @property
    def _is_released(self) -> bool:
        """Whether the runner was ended because the job is to run elsewhere, later, or not at all."""
        return self._pause_ends_at is not None or self._lease.directive in IMMEDIATE_STOP_REASONS

    def _find_stop_reason(self, runner: Runner | None) -> AttemptOutcome | None:
        """Return the reason to end the runner now; None if the runner may continue."""
        directive = self._lease.directive
        if reason := IMMEDIATE_STOP_REASONS.get(directive):
            return reason
        if self._final_message is not None:
            return None
        if directive is Directive.YIELD or self._draining.is_set():
            return self._request_release(runner)
        if directive is Directive.MAKE_ROOM and runner is not None and not self._makes_room:
            self._makes_room = True
            runner.ask_to_make_room()
        return self._too_late if time.monotonic() >= self._ends_at else None

    def _request_release(self, runner: Runner | None) -> AttemptOutcome | None:
        """Ask the runner to pause if it can, and release the job once the runner has had time to do so."""
        if runner is None or not self._can_pause:
            return StopReason.RELEASED
        if self._pause_ends_at is None:
            # A worker that is shutting down exits after `drain_seconds` and must record the release before that.
            limit = self._worker.drain_seconds / 2 if self._draining.is_set() else self._worker.pause_seconds
            self._pause_ends_at = time.monotonic() + min(limit, self._worker.pause_seconds)
            runner.ask_to_pause()
        return StopReason.RELEASED if time.monotonic() >= self._pause_ends_at else None

    def _is_lingering(self, runner: Runner) -> bool:
        """Whether the runner sent its final message or exited a while ago, but a process still holds its pipes open."""
        if runner.exit_code is not None:
            runner.kill()  # kill any processes that the runner has left behind
        elif self._final_message is None:
            return False
        if self._over_at is None:
            self._over_at = time.monotonic()
        return time.monotonic() - self._over_at > self._worker.exit_seconds

    def _listen(self, runner: Runner, timeout: float) -> int:
        """Relay the runner's messages and output; return how many items arrived."""
        heard = 0
        for said in runner.listen(timeout):
            heard += 1
            self._has_heard = True
            match said:
                case Progressed():
                    self._lease.record_progress(
                        {"fraction": said.fraction, "stage": said.stage, "metrics": dict(said.metrics)}
                    )
                case Measured(point):
                    self._lease.record_point(point)
                case Finished() | Failed() | Paused():
                    self._final_message = said
                case Replied(replies):
                    if self._served is not None:
                        self._served.forward(replies)
                case ServingChanged(accepts):
                    self._update_chat_availability(runner, accepts=accepts)
                case (stream, lines):
                    self._record_lines(stream, lines)
        return heard

    def _update_chat_availability(self, runner: Runner, *, accepts: bool) -> None:
        """Start accepting calls, and only then record in SQL that this attempt accepts chats."""

        def deliver(call: Call) -> None:
            runner.send_call(self._attempt_id, call)

        if accepts and self._served is None:
            self._served = self._exchange.open(self._attempt_id, deliver)
        self._lease.record_chat_availability(accepts=accepts)

    def _end_chats(self) -> None:
        """Close the chats that the runner has left open, with an error for their clients."""
        if self._served is None:
            return
        died = self._final_message is None or isinstance(self._final_message, Failed)
        if died and not self._is_released:
            self._served.close("failed", "the runner exited before the response was complete; try again")
        else:
            self._served.close("leaving", "the job that serves chats is ending or being moved; try again")

    def _record_lines(self, stream: str, lines: list[str]) -> None:
        if kept := self._budget.limit_lines(lines):
            self._lease.record_lines(stream, kept)
