"""The runner: a separate process for one attempt. It owns its devices, and ends with its worker or at its word.

Whatever may take long happens here, where it can be killed at any moment: fetching models, computing, hashing and
publishing. The worker only keeps the books. Nothing heavy is imported at the top, for the worker imports this module.
"""

import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module

from baichuan_core.errors import TrainingPausedError
from baichuan_core.progress import Progress
from jobs.artifacts import Workspace, describe, open_store_at
from jobs.records import AllocationRecord
from jobs.results import JobProgress
from jobs.service.metrics import to_point
from workers.environment import device_variables
from workers.failures import failure_of
from workers.handlers.contract import handler_of
from workers.memory import require_memory
from workers.messages import (
    PAUSE,
    Assignment,
    Failed,
    Finished,
    Measured,
    Message,
    Paused,
    Progressed,
    decode_assignment,
    encode_message,
)
from workers.preparation import prepare, require_room

REPORT_SECONDS = 0.1  # more often than anybody looks, seldom enough to cost nothing
# What handlers import only once they need it; together they cost two seconds.
LATE_IMPORTS = ("bitsandbytes", "peft")


@dataclass(frozen=True, slots=True)
class Wires:
    """File descriptors of a runner's ends of its pipes; it ends when `control` is closed."""

    control: int
    messages: int
    stdout: int
    stderr: int


def preload(kinds: list[str]) -> None:
    """Import what jobs of these kinds need, ahead of the first assignment."""
    for name in (*(f"workers.handlers.{kind}" for kind in kinds), *LATE_IMPORTS):
        import_module(name)


def run(wires: Wires) -> None:
    """Live the whole life of a runner: wait for the assignment, work, report, exit."""
    with suppress(PermissionError):  # the leader of a session already
        os.setsid()  # one process group with all it starts, for the worker to kill
    _redirect(wires)
    # Under other methods, locks that libraries make would outlive a killed runner.
    multiprocessing.set_start_method("fork", force=True)
    control = os.fdopen(wires.control, "rb")
    line = control.readline()
    if not line.endswith(b"\n"):
        os._exit(0)  # the worker has ended or needs no runner
    pause = threading.Event()
    threading.Thread(target=_obey, args=(control, pause), name="control", daemon=True).start()
    last_word: Message
    try:
        last_word = _work(decode_assignment(line), wires.messages, pause)
    except TrainingPausedError:
        last_word = Paused()
    except BaseException as exception:  # noqa: BLE001 - whatever it is, the job's owner must learn of it
        failure = failure_of(exception)
        if not failure.expected:
            traceback.print_exc()
        last_word = Failed(failure)
    _send(wires.messages, last_word)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no waiting for threads and exit handlers of the libraries


def _work(assignment: Assignment, messages: int, pause: threading.Event) -> Finished:
    claim, storage = assignment.claim, assignment.storage
    visible = device_variables(_cuda_devices(claim.allocation))
    os.environ.update(visible)
    for name, value in visible.items():
        if value:
            print(f"{name}={value}")  # noqa: T201 - the job's log
    os.environ.setdefault("OMP_NUM_THREADS", str(assignment.threads))
    store = open_store_at(
        storage.artifact_root, cache=storage.cache, cache_bytes=storage.cache_bytes, variables=storage.variables
    )
    prepared = prepare(claim, store, storage.model_roots, Reporter(messages))
    context = replace(prepared, should_pause=pause.is_set)
    handler = handler_of(claim.spec)
    require_room(claim.spec, handler, context, store, storage.free_space_reserve_bytes)
    _set_up_libraries(assignment)
    require_memory(claim.spec, context)
    outcome = handler.run(claim.spec, context)
    _send(messages, Progressed(1.0, "publishing", {}))
    stored = describe(context.output)
    store.publish(Workspace(claim.job.id, claim.attempt.id).output)
    return Finished(outcome, stored)


class Reporter:
    """Sends progress to the worker, thinned out: every new stage, and the figures a few times a second.

    The metrics of steps are sent all.
    """

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._stage = ""
        self._sent_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Report."""
        if point := to_point(progress.metrics):
            _send(self._messages, Measured(point))
        now = time.monotonic()
        if progress.stage == self._stage and now - self._sent_at < REPORT_SECONDS and progress.fraction < 1:
            return
        self._stage, self._sent_at = progress.stage, now
        known = JobProgress.model_validate(asdict(progress))
        _send(self._messages, Progressed(known.fraction, known.stage, known.metrics))


def _send(messages: int, message: Message) -> None:
    """Write a message; if the worker has ended, the control pipe says so, too."""
    line = memoryview(encode_message(message))
    with suppress(BrokenPipeError):
        while line:
            line = line[os.write(messages, line) :]


def _cuda_devices(allocation: AllocationRecord) -> list[str]:
    """Return the UUIDs that CUDA shall show: a CPU is none of its devices."""
    return [device["uuid"] for device in allocation.devices if not device["uuid"].startswith("cpu")]


def _redirect(wires: Wires) -> None:
    """Send output to the pipes, at the level of file descriptors: native libraries print, too."""
    os.dup2(wires.stdout, 1)
    os.dup2(wires.stderr, 2)
    # The inherited streams may have been opened on a file, and would buffer and seek as if they still were.
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.close(wires.stdout)
    os.close(wires.stderr)
    faulthandler.enable(file=2)


def _obey(control: io.BufferedReader, pause: threading.Event) -> None:
    """Note a request to pause; when the worker ends, however that comes, end all that belongs to this runner."""
    for line in control:
        if line == PAUSE:
            pause.set()
    os.killpg(0, signal.SIGKILL)


def _set_up_libraries(assignment: Assignment) -> None:
    import torch  # noqa: PLC0415 - not in the worker's own process
    from transformers.utils import logging  # noqa: PLC0415

    from baichuan_core.free_memory import limit_memory  # noqa: PLC0415

    torch.set_num_threads(assignment.threads)
    logging.disable_progress_bar()  # bars are for terminals; a job reports its progress otherwise
    allocation = assignment.claim.allocation
    if allocation.devices and not allocation.exclusive:
        limit_memory([device["reserved_bytes"] for device in allocation.devices])


def main(arguments: list[str]) -> None:
    """Run `python -m workers.runner KINDS CONTROL MESSAGES STDOUT STDERR`: imports first, then the assignment."""
    kinds, *descriptors = arguments
    preload(kinds.split(","))
    run(Wires(*(int(each) for each in descriptors)))


if __name__ == "__main__":
    main(sys.argv[1:])
