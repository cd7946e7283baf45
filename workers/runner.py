"""The runner: a process of its own for one attempt. It owns the device, and dies with the worker or at its word.

Whatever may take long happens here, where it can be killed at any moment: fetching models, computing, hashing and
publishing. The worker only keeps the books. Nothing heavy is imported at the top, for the worker imports this module.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

from baichuan_core.progress import Progress
from jobs.artifacts import StoredFile, Workspace, describe, open_store
from jobs.results import AnyResult, JobProgress
from jobs.service.claims import Claim
from jobs.settings import Settings
from workers.failures import Failure, failure_of
from workers.handlers.contract import Outcome, handler_of
from workers.memory import require_memory
from workers.preparation import prepare, require_room

REPORT_SECONDS = 0.1  # more often than anybody looks, seldom enough to cost nothing


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a runner is started with."""

    claim: Claim
    settings: Settings
    threads: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """Message: where the operation stands."""

    fraction: float
    stage: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Finished:
    """Message: everything is written and published in the store."""

    outcome: Outcome[AnyResult]
    stored: Sequence[StoredFile]


@dataclass(frozen=True, slots=True)
class Failed:
    """Message: the attempt failed."""

    failure: Failure


Message = Progressed | Finished | Failed


@dataclass(frozen=True, slots=True)
class Wires:
    """A runner's ends of its pipes: it ends when `alive` closes."""

    alive: Connection
    messages: Connection
    stdout: Connection
    stderr: Connection


def run(assignment: Assignment, wires: Wires) -> None:
    """The whole life of a runner."""
    os.setsid()  # one process group with all it starts, for the worker to kill
    _redirect(wires)
    # Linux' default again: under the worker's own methods, locks that libraries make would outlive a killed runner.
    multiprocessing.set_start_method("fork", force=True)
    threading.Thread(target=_die_with_the_worker, args=(wires.alive,), name="alive", daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(assignment.threads))
    last_word: Message
    try:
        last_word = _work(assignment, wires.messages)
    except BaseException as exception:  # noqa: BLE001 - whatever it is, the job's owner must learn of it
        failure = failure_of(exception)
        if not failure.expected:
            traceback.print_exc()
        last_word = Failed(failure)
    wires.messages.send(last_word)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no waiting for threads and exit handlers of the libraries


def _work(assignment: Assignment, messages: Connection) -> Finished:
    claim, settings = assignment.claim, assignment.settings
    spec = claim.spec
    store = open_store(settings)
    reporter = Reporter(messages)
    context = prepare(claim, store, settings, reporter)
    handler = handler_of(spec)
    require_room(spec, handler, context, store, settings)
    _set_up_libraries(assignment.threads)
    require_memory(spec, context)
    outcome = handler.run(spec, context)
    messages.send(Progressed(1.0, "publishing", {}))
    key = Workspace(claim.job.id, claim.attempt.id).output
    stored = describe(context.output)
    store.publish(key)
    return Finished(outcome, stored)


class Reporter:
    """Sends progress to the worker, thinned out: every new stage, and the figures a few times a second."""

    def __init__(self, messages: Connection) -> None:
        self._messages = messages
        self._stage = ""
        self._sent_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Report."""
        now = time.monotonic()
        if progress.stage == self._stage and now - self._sent_at < REPORT_SECONDS and progress.fraction < 1:
            return
        self._stage, self._sent_at = progress.stage, now
        known = JobProgress.model_validate(asdict(progress))
        self._messages.send(Progressed(known.fraction, known.stage, known.metrics))


def _redirect(wires: Wires) -> None:
    """Send output to the pipes, at the level of file descriptors: native libraries print, too."""
    os.dup2(wires.stdout.fileno(), 1)
    os.dup2(wires.stderr.fileno(), 2)
    # The inherited streams may have been opened on a file, and would buffer and seek as if they still were.
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    wires.stdout.close()
    wires.stderr.close()
    faulthandler.enable(file=2)


def _die_with_the_worker(alive: Connection) -> None:
    """Wait for the end of the worker, however it comes, and end all that belongs to this runner."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os.killpg(0, signal.SIGKILL)


def _set_up_libraries(threads: int) -> None:
    import torch  # noqa: PLC0415 - not in the worker's own process
    from transformers.utils import logging  # noqa: PLC0415

    torch.set_num_threads(threads)
    logging.disable_progress_bar()  # bars are for terminals; a job reports its progress otherwise
