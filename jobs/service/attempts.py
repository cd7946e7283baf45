"""Operations that workers perform on attempts. An attempt's id is the fencing token; every step checks it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal, Self

from sqlalchemy import Connection

from jobs.artifacts import StoredFile, Workspace
from jobs.database import now_ms
from jobs.database.journal import add_to_feed, add_usage
from jobs.errors import OutdatedSpecError
from jobs.identifiers import new_id
from jobs.records import ArtifactRecord, AttemptRecord, JobRecord
from jobs.repository import allocations, attempts, events, files, jobs, models, workers
from jobs.results import count_tokens
from jobs.service import metrics
from jobs.service.claims import Claim, build_claim
from jobs.service.metrics import Point
from jobs.service.stored_specs import read_spec
from jobs.service.transitions import apply_event, end_attempt
from jobs.settings import Settings
from jobs.state import AttemptState, Event, JobState


@dataclass(frozen=True, slots=True)
class ProducedModel:
    """The model among an attempt's artifacts: its folder within the output, its kind and its details."""

    folder: str
    kind: str
    details: Mapping[str, Any]


class Directive(Enum):
    """The instruction that a worker receives when it renews a lease."""

    CONTINUE = auto()
    STOP = auto()  # a user has cancelled the job
    YIELD = auto()  # release the job: it is requeued or paused, and the attempt does not count
    MAKE_ROOM = auto()  # other jobs are waiting, so a serve job ends once it is idle
    ABANDON = auto()  # the attempt no longer belongs to this worker, so nothing the worker does has any effect


class ClaimStatus(Enum):
    """The state of the claims on an attempt that runs on several nodes."""

    NOT_BEGUN = auto()  # this worker has not claimed its node yet
    WAITING = auto()  # other workers have not claimed their nodes yet


@dataclass(frozen=True, slots=True)
class HeldAttempt:
    """A worker's open attempt; its job stays locked until the transaction ends."""

    connection: Connection
    settings: Settings
    worker_id: str
    job: JobRecord
    attempt: AttemptRecord
    now: int

    @classmethod
    def lock(
        cls,
        connection: Connection,
        settings: Settings,
        attempt_id: str,
        worker_id: str,
        state: AttemptState = AttemptState.RUNNING,
    ) -> Self | None:
        """Lock the attempt; return None if it does not belong to this worker or is not in this state."""
        known = attempts.get(connection, attempt_id)
        job = jobs.lock(connection, known.job_id) if known else None  # lock jobs first to avoid deadlocks
        if job is None or job.attempt_id != attempt_id:
            return None
        attempt = attempts.get_with_allocations(connection, attempt_id)
        if attempt.state != state or worker_id not in {place.worker_id for place in attempt.allocations}:
            return None
        return cls(connection, settings, worker_id, job, attempt, now_ms(connection))

    def claim(self, offer_address: Callable[[], str] | None = None) -> Claim | ClaimStatus | None:
        """Claim this worker's node; once all nodes are claimed, the attempt begins.

        Args:
            offer_address: Returns the "host:port" at which the other nodes can reach this one; called only if this
                node is the first of several.

        Returns:
            The claim; `ClaimStatus.WAITING` until the other workers have claimed their nodes; or None if this version
            of the service does not accept the job's spec, in which case the job has failed.
        """
        address = offer_address() if offer_address is not None and self._leads_others else None
        mine = {"claimed_at": self.now, "address": address}
        allocations.update(self.connection, self.attempt.id, mine, worker_id=self.worker_id)
        others = [place for place in self.attempt.allocations if place.worker_id != self.worker_id]
        if any(place.claimed_at is None for place in others):
            return ClaimStatus.WAITING
        self._extend_all_leases()
        claimed = {"claimed_at": self.now}
        apply_event(
            self.connection, self.job, Event.CLAIM, now=self.now, settings=self.settings, attempt_changes=claimed
        )
        return self.build_claim()

    def build_claim(self) -> Claim | None:
        """Return the data needed to run the attempt; if the job's spec is rejected, fail the job and return None."""
        try:
            spec = read_spec(jobs.get_details(self.connection, [self.job.id])[self.job.id])
        except OutdatedSpecError as error:
            running = jobs.get_many(self.connection, [self.job.id])[self.job.id]
            outdated = {"code": error.code, "message": error.message}
            end_attempt(self.connection, running, Event.FAIL, self.settings, error=outdated)
            return None
        return build_claim(self.connection, self.job, self.attempt, spec, self.worker_id)

    def renew(
        self,
        progress: Mapping[str, Any] | None = None,
        entries: Sequence[tuple[str, Mapping[str, Any]]] = (),
        points: Sequence[Point] = (),
        *,
        accepts_chats: bool | None = None,
    ) -> Directive:
        """Renew this worker's lease on its node, and record what it reports.

        Args:
            progress: The latest progress report.
            entries: Entries for the job's log.
            points: Metrics of logged steps.
            accepts_chats: Whether the attempt accepts chats; None if that has not changed.
        """
        deadline = self.now + int(self.settings.lease_seconds * 1000)
        allocations.update(self.connection, self.attempt.id, {"deadline": deadline}, worker_id=self.worker_id)
        if accepts_chats is not None:
            attempts.set_accepts_chats(self.connection, self.attempt.id, accepts=accepts_chats)
        if progress is not None:
            jobs.set_progress(self.connection, self.job.id, progress)
            self._add_to_feed("progress", progress)
        if points:
            metrics.record(self.connection, self.job.id, self.attempt.number, points)
            steps = [point.step for point in points]
            self._add_to_feed("metrics", {"first_step": min(steps), "last_step": max(steps)})
        events.append(self.connection, self.job.id, entries, attempt_id=self.attempt.id, now=self.now)
        return _choose_directive(self.job.state, workers.get_drain_deadline(self.connection, self.worker_id), self.now)

    def succeed(self, result: Mapping[str, Any], stored: Sequence[StoredFile], model: ProducedModel | None) -> bool:
        """Publish the result: artifacts, model and state become visible in this one transaction, or not at all.

        Return False if a user has cancelled the job.
        """
        changes = {"result": dict(result), "error": None} if self.job.state is not JobState.CANCELLING else {}
        reached = apply_event(
            self.connection, self.job, Event.SUCCEED, now=self.now, settings=self.settings, changes=changes
        )
        if reached is not JobState.SUCCEEDED:
            return False
        tokens = count_tokens(result)
        add_usage(self.connection, self.job.project_id, self.job.key_id, now=self.now, tokens=tokens)
        prefix = Workspace(self.job.id, self.attempt.id).output
        files.add_artifacts(self.connection, [self._to_artifact(file, prefix) for file in stored])
        if model is not None:
            made = {
                "state": "ready",
                "kind": model.kind,
                "key": f"{prefix}/{model.folder}",
                "details": dict(model.details),
                "created_at": self.now,
            }
            models.update_pending(self.connection, self.job.id, made)
        return True

    def end(self, event: Event, error: Mapping[str, Any] | None = None) -> JobState:
        """End the attempt with a fail, stumble, stop or release event; return the job's new state."""
        return end_attempt(self.connection, self.job, event, self.settings, error=error)

    def _add_to_feed(self, kind: Literal["progress", "metrics"], data: Mapping[str, Any]) -> None:
        add_to_feed(self.connection, self.job.project_id, self.job.id, kind, data, now=self.now)

    @property
    def _leads_others(self) -> bool:
        nodes = self.attempt.allocations
        return len(nodes) > 1 and nodes[0].worker_id == self.worker_id

    def _extend_all_leases(self) -> None:
        deadline = self.now + int(self.settings.lease_seconds * 1000)
        allocations.update(self.connection, self.attempt.id, {"deadline": deadline})

    def _to_artifact(self, file: StoredFile, prefix: str) -> ArtifactRecord:
        return ArtifactRecord(
            id=new_id("file"),
            job_id=self.job.id,
            attempt_id=self.attempt.id,
            path=file.path,
            key=f"{prefix}/{file.path}",
            bytes=file.bytes,
            sha256=file.sha256,
            created_at=self.now,
        )


def claim(
    connection: Connection,
    attempt_id: str,
    worker_id: str,
    settings: Settings,
    offer_address: Callable[[], str] | None = None,
) -> Claim | ClaimStatus | None:
    """Claim a dispatched attempt for a worker; see `HeldAttempt.claim`.

    Return None if the attempt was already claimed, cancelled or ended; the worker then has nothing to do.
    """
    held = HeldAttempt.lock(connection, settings, attempt_id, worker_id, AttemptState.DISPATCHED)
    if held is None:
        return None
    mine = next(place for place in held.attempt.allocations if place.worker_id == worker_id)
    return held.claim(offer_address) if mine.claimed_at is None else None


def poll_claim(
    connection: Connection, attempt_id: str, worker_id: str, settings: Settings
) -> Claim | ClaimStatus | None:
    """Return the claim of a multi-node attempt, `WAITING` until all its nodes are claimed, or None if it has ended."""
    if HeldAttempt.lock(connection, settings, attempt_id, worker_id, AttemptState.DISPATCHED) is not None:
        return ClaimStatus.WAITING
    held = HeldAttempt.lock(connection, settings, attempt_id, worker_id, AttemptState.RUNNING)
    return held.build_claim() if held else None


def peek_directive(connection: Connection, attempt_id: str, worker_id: str) -> Directive:
    """Return the worker's current directive without taking locks or renewing the lease; cheap enough to call often."""
    now, found = now_ms(connection), attempts.read_directive_inputs(connection, attempt_id, worker_id)
    if found is None or found.attempt_state != AttemptState.RUNNING:
        return Directive.ABANDON
    directive = _choose_directive(found.job_state, found.drain_at, now)
    return Directive.MAKE_ROOM if directive is Directive.CONTINUE and found.others_wait else directive


def has_succeeded(connection: Connection, attempt_id: str) -> bool:
    """Whether the attempt's success is recorded, for a worker that did not receive the reply to its commit."""
    attempt = attempts.get(connection, attempt_id)
    return attempt is not None and attempt.state == AttemptState.SUCCEEDED


def _choose_directive(job_state: str, drain_at: int | None, now: int) -> Directive:
    if job_state == JobState.CANCELLING:
        return Directive.STOP
    if job_state == JobState.PAUSING:
        return Directive.YIELD
    return Directive.YIELD if drain_at is not None and drain_at <= now else Directive.CONTINUE
