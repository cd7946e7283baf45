"""The state machine of a job and its attempts, defined by a single table.

`docs/state_machine.md` shows this table; a test compares the two. Every compare-and-set in SQL takes its source and
target states from here.
"""

from dataclasses import dataclass
from enum import StrEnum

from jobs.errors import IllegalTransitionError


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    CANCELLING = "cancelling"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job is over unless a user retries it."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class AttemptState(StrEnum):
    """The state of one attempt at a job."""

    DISPATCHED = "dispatched"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # no worker claimed it in time
    LOST = "lost"  # the worker stopped renewing the lease
    RELEASED = "released"  # a worker that was shutting down or draining released the job


class Event(StrEnum):
    """An event that changes the state of a job."""

    DISPATCH = "dispatch"  # the scheduler placed it on a worker
    CLAIM = "claim"  # the worker claimed it
    EXPIRE = "expire"  # the worker did not claim it in time
    SUCCEED = "succeed"
    FAIL = "fail"  # it failed, and another attempt would fail too
    STUMBLE = "stumble"  # it failed, but another attempt may succeed
    LOSE = "lose"  # the worker's lease ran out
    RELEASE = "release"  # a worker that is shutting down or draining releases it
    CANCEL = "cancel"  # a user cancels it
    STOP = "stop"  # the worker has stopped it as requested
    RETRY = "retry"  # a user retries it
    PAUSE = "pause"  # a user pauses it
    RESUME = "resume"  # a user resumes it


class Guard(StrEnum):
    """A condition on a transition."""

    ALWAYS = "always"
    ATTEMPTS_LEFT = "attempts left"
    NO_ATTEMPTS_LEFT = "no attempts left"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the transition table; `attempt` is the new state of the current attempt, if it changes."""

    source: JobState
    event: Event
    target: JobState
    attempt: AttemptState | None = None
    guard: Guard = Guard.ALWAYS


J, A, E, G = JobState, AttemptState, Event, Guard

TRANSITIONS: tuple[Transition, ...] = (
    Transition(J.QUEUED, E.DISPATCH, J.DISPATCHED, A.DISPATCHED),
    Transition(J.QUEUED, E.CANCEL, J.CANCELLED),
    Transition(J.DISPATCHED, E.CLAIM, J.RUNNING, A.RUNNING),
    Transition(J.DISPATCHED, E.EXPIRE, J.QUEUED, A.EXPIRED),
    Transition(J.DISPATCHED, E.CANCEL, J.CANCELLED, A.CANCELLED),
    Transition(J.RUNNING, E.SUCCEED, J.SUCCEEDED, A.SUCCEEDED),
    Transition(J.RUNNING, E.FAIL, J.FAILED, A.FAILED),
    Transition(J.RUNNING, E.STUMBLE, J.QUEUED, A.FAILED, G.ATTEMPTS_LEFT),
    Transition(J.RUNNING, E.STUMBLE, J.FAILED, A.FAILED, G.NO_ATTEMPTS_LEFT),
    Transition(J.RUNNING, E.LOSE, J.QUEUED, A.LOST, G.ATTEMPTS_LEFT),
    Transition(J.RUNNING, E.LOSE, J.FAILED, A.LOST, G.NO_ATTEMPTS_LEFT),
    Transition(J.RUNNING, E.RELEASE, J.QUEUED, A.RELEASED),
    Transition(J.RUNNING, E.CANCEL, J.CANCELLING),
    Transition(J.CANCELLING, E.STOP, J.CANCELLED, A.CANCELLED),
    Transition(J.CANCELLING, E.SUCCEED, J.CANCELLED, A.CANCELLED),
    Transition(J.CANCELLING, E.FAIL, J.CANCELLED, A.CANCELLED),
    Transition(J.CANCELLING, E.STUMBLE, J.CANCELLED, A.CANCELLED),
    Transition(J.CANCELLING, E.LOSE, J.CANCELLED, A.LOST),
    Transition(J.CANCELLING, E.RELEASE, J.CANCELLED, A.CANCELLED),
    Transition(J.QUEUED, E.PAUSE, J.PAUSED),
    Transition(J.DISPATCHED, E.PAUSE, J.PAUSED, A.CANCELLED),
    Transition(J.RUNNING, E.PAUSE, J.PAUSING),
    Transition(J.PAUSING, E.RELEASE, J.PAUSED, A.RELEASED),
    Transition(J.PAUSING, E.SUCCEED, J.SUCCEEDED, A.SUCCEEDED),
    Transition(J.PAUSING, E.FAIL, J.FAILED, A.FAILED),
    Transition(J.PAUSING, E.STUMBLE, J.PAUSED, A.FAILED, G.ATTEMPTS_LEFT),
    Transition(J.PAUSING, E.STUMBLE, J.FAILED, A.FAILED, G.NO_ATTEMPTS_LEFT),
    Transition(J.PAUSING, E.LOSE, J.PAUSED, A.LOST, G.ATTEMPTS_LEFT),
    Transition(J.PAUSING, E.LOSE, J.FAILED, A.LOST, G.NO_ATTEMPTS_LEFT),
    Transition(J.PAUSING, E.RESUME, J.RUNNING),
    Transition(J.PAUSING, E.CANCEL, J.CANCELLING),
    Transition(J.PAUSED, E.RESUME, J.QUEUED),
    Transition(J.PAUSED, E.CANCEL, J.CANCELLED),
    Transition(J.FAILED, E.RETRY, J.QUEUED),
    Transition(J.CANCELLED, E.RETRY, J.QUEUED),
)

# Events after which the attempt counts against `max_attempts`.
EVENTS_COUNTED_AS_ATTEMPT = frozenset({Event.STUMBLE, Event.LOSE, Event.FAIL})


def find_transition(state: JobState, event: Event, *, attempts_left: bool = True) -> Transition:
    """Return the matching row of the table.

    Raises:
        IllegalTransitionError: the table has no such row.
    """
    unmet = Guard.NO_ATTEMPTS_LEFT if attempts_left else Guard.ATTEMPTS_LEFT
    for row in TRANSITIONS:
        if row.source is state and row.event is event and row.guard is not unmet:
            return row
    raise IllegalTransitionError(f"cannot {event} a job that is {state}{_describe_remedy(event)}")


def _describe_remedy(event: Event) -> str:
    """Return a clause that states to which jobs the event can be applied."""
    match event:
        case Event.RETRY:
            return "; only a failed or cancelled job can be retried"
        case Event.CANCEL:
            return "; only a job that has not ended can be cancelled"
        case Event.PAUSE:
            return "; only a job that is queued, dispatched or running can be paused"
        case Event.RESUME:
            return "; only a paused job can be resumed"
        case _:
            return ""
