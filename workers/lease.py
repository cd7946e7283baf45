"""The lease on an attempt: renewed by a separate thread, which also checks for directives and records progress."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sqlalchemy import Connection

from jobs.database import OUTAGE_ERRORS, Database
from jobs.service import attempts
from jobs.service.attempts import Directive, HeldAttempt
from jobs.service.metrics import Point
from jobs.settings import Settings
from workers.settings import WorkerSettings

RETRY_INTERVAL_SECONDS = 0.5
MIN_PROGRESS_CHANGE = 0.01  # minimum increase of the fraction between two progress events in the job's log
MAX_PROGRESS_EVENTS = 1_000  # limit on progress events per attempt, in case the stage keeps changing

log = logging.getLogger(__name__)

T = TypeVar("T")
LogEntry = tuple[str, dict[str, Any]]


class LeaseExpiredError(Exception):
    """The database could not be reached before the lease expired, so this worker has lost the attempt."""


@dataclass(frozen=True, slots=True)
class PendingUpdates:
    """Updates that the next renewal will record."""

    log: list[LogEntry]
    progress: dict[str, Any] | None
    points: list[Point]
    accepts_chats: bool | None


class Lease:
    """The lease on an attempt, which a thread keeps renewing. It is lost only if a database outage outlasts it."""

    def __init__(
        self, attempt_id: str, *, taken_at: float, database: Database, settings: Settings, worker: WorkerSettings
    ) -> None:
        self._attempt_id = attempt_id
        self._database = database
        self._settings = settings
        self._worker = worker
        self._ends_at = taken_at + settings.lease_seconds
        self._renewed_at = taken_at
        self._directive = Directive.CONTINUE
        self._lock = threading.Lock()
        self._log: list[LogEntry] = []
        self._progress: dict[str, Any] | None = None
        self._points: list[Point] = []
        self._accepts_chats: bool | None = None
        self._last_progress_event: dict[str, Any] | None = None
        self._progress_events = 0
        self._closing = threading.Event()
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {attempt_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop renewing; the lease itself remains valid until it expires."""
        self._closing.set()
        self._awake.set()
        self._thread.join()

    @property
    def directive(self) -> Directive:
        """The latest directive; ABANDON once the lease has expired."""
        return Directive.ABANDON if time.monotonic() >= self._ends_at else self._directive

    def record_progress(self, progress: dict[str, Any]) -> None:
        """Record the progress of the attempt.

        Every renewal writes the newest report to the job; its log gets an event when the stage changes or the fraction
        grows by 1%. The last metrics of a stage become an event even if the stage ends before the next renewal.
        """
        with self._lock:
            last = self._progress
            if last and last["metrics"] and last["stage"] != progress["stage"] and self._should_record_event(last):
                self._log.append(("progress", last))
                self._last_progress_event, self._progress_events = last, self._progress_events + 1
            self._progress = progress

    def record_chat_availability(self, *, accepts: bool) -> None:
        """Record at once whether the attempt accepts chats."""
        with self._lock:
            self._accepts_chats = accepts
        self._awake.set()

    def record_point(self, point: Point) -> None:
        """Record the metrics logged at one step."""
        with self._lock:
            self._points.append(point)

    def record_lines(self, stream: str, lines: list[str]) -> None:
        """Record lines that the runner printed."""
        with self._lock:
            if self._log and self._log[-1][0] == "log" and self._log[-1][1]["stream"] == stream:
                lines = [*self._log.pop()[1]["lines"], *lines]
            self._log.append(("log", {"stream": stream, "lines": lines}))

    def retry_until_expiry(self, operation: Callable[[Connection], T]) -> T:
        """Run a transaction; while the database is unreachable, retry until the lease expires.

        Raises:
            LeaseExpiredError: The lease has expired.
        """
        while True:
            try:
                with self._database.writing() as connection:
                    return operation(connection)
            except OUTAGE_ERRORS as error:
                log.warning("%s: the database is not responding, trying again: %s", self._attempt_id, error)
            if time.monotonic() + RETRY_INTERVAL_SECONDS >= self._ends_at:
                raise LeaseExpiredError(self._attempt_id)
            time.sleep(RETRY_INTERVAL_SECONDS)

    def end_attempt(self, ending: Callable[[Connection], T]) -> T:
        """Stop renewing, then record everything pending and end the attempt in one transaction.

        Raises:
            LeaseExpiredError: The database could not be reached in time.
        """
        self.stop()
        pending = self._take_pending()

        def transaction(connection: Connection) -> T:
            self._record(connection, pending)
            return ending(connection)

        return self.retry_until_expiry(transaction)

    def _run(self) -> None:
        while True:
            is_due = self._awake.wait(self._worker.directive_seconds)
            self._awake.clear()
            if self._closing.is_set():
                return
            try:
                self._directive = self._renew() if is_due or self._must_renew() else self._peek()
            except Exception as error:  # noqa: BLE001 - wait out an outage, which may be shorter than the lease
                log.warning("%s: the lease was not renewed, trying again: %s", self._attempt_id, error)

    def _must_renew(self) -> bool:
        age = time.monotonic() - self._renewed_at
        with self._lock:
            has_pending = bool(self._log or self._progress or self._points)
        return age >= self._settings.heartbeat_seconds or (has_pending and age >= self._worker.progress_seconds)

    def _peek(self) -> Directive:
        with self._database.reading() as connection:
            return attempts.peek_directive(connection, self._attempt_id, self._worker.id)

    def _renew(self) -> Directive:
        begun = time.monotonic()
        pending = self._take_pending()
        try:
            with self._database.writing() as connection:
                directive = self._record(connection, pending)
        except Exception:
            self._restore_pending_updates(pending)
            raise
        if pending.progress is not None and self._should_record_event(pending.progress):
            self._last_progress_event, self._progress_events = pending.progress, self._progress_events + 1
        self._renewed_at = begun
        self._ends_at = begun + self._settings.lease_seconds
        return directive

    def _record(self, connection: Connection, pending: PendingUpdates) -> Directive:
        progress, entries = pending.progress, pending.log
        if progress and self._should_record_event(progress):
            entries = [*entries, ("progress", progress)]
        held = self.lock_attempt(connection)
        return (
            Directive.ABANDON
            if held is None
            else held.renew(progress, entries, pending.points, accepts_chats=pending.accepts_chats)
        )

    def lock_attempt(self, connection: Connection) -> HeldAttempt | None:
        """Lock the attempt in a transaction; return None if this worker no longer holds it."""
        return HeldAttempt.lock(connection, self._settings, self._attempt_id, self._worker.id)

    def _should_record_event(self, progress: dict[str, Any]) -> bool:
        last = self._last_progress_event
        if last is None:
            return True
        if progress["fraction"] >= 1 > last["fraction"]:
            return True
        changed = progress["stage"] != last["stage"] or progress["fraction"] - last["fraction"] >= MIN_PROGRESS_CHANGE
        return changed and self._progress_events < MAX_PROGRESS_EVENTS

    def _take_pending(self) -> PendingUpdates:
        with self._lock:
            taken = PendingUpdates(self._log, self._progress, self._points, self._accepts_chats)
            self._log, self._progress, self._points, self._accepts_chats = [], None, [], None
            return taken

    def _restore_pending_updates(self, pending: PendingUpdates) -> None:
        with self._lock:
            self._log = [*pending.log, *self._log]
            self._progress = self._progress or pending.progress
            self._points = [*pending.points, *self._points]
            if self._accepts_chats is None:
                self._accepts_chats = pending.accepts_chats
