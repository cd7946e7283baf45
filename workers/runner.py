"""The runner: a separate process for one attempt, or for several consecutive attempts that use the same model.

It owns its devices, and exits when the worker exits or tells it to.

All long operations (fetching models, computing, hashing and publishing) happen here, because this process can be
killed at any moment. The worker only keeps the records. No heavy library is imported at module level, because the
worker imports this module.
"""

import ctypes
import faulthandler
import gc
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from queue import SimpleQueue
from typing import TYPE_CHECKING

from baichuan_core.errors import TrainingPausedError
from baichuan_core.progress import Progress
from jobs.artifacts import ArtifactStore, Workspace, describe_files, open_store_at
from jobs.chats.messages import Reply
from jobs.records import AllocationRecord
from jobs.results import JobProgress
from jobs.scheduling import LoadedModel
from jobs.service.metrics import to_point
from workers.environment import build_device_variables
from workers.failures import make_failure
from workers.handlers.chat_channel import ChatChannel
from workers.handlers.contract import DevicesReleasedError, HandlerContext, import_handler
from workers.memory import require_memory
from workers.messages import (
    CALL_PREFIX,
    MAKE_ROOM_COMMAND,
    PAUSE_COMMAND,
    Assignment,
    Failed,
    Finished,
    Measured,
    Message,
    ModelKept,
    Paused,
    Progressed,
    Replied,
    ServingChanged,
    decode_assignment,
    decode_call,
    encode_message,
)
from workers.preparation import identify_loaded_model, prepare_context, require_disk_space

if TYPE_CHECKING:
    from baichuan_core.checkpoint import ModelCacheEntry

REPORT_INTERVAL_SECONDS = 0.1  # minimum seconds between two reports of the same stage
# Modules that handlers import lazily; importing them takes two seconds.
LAZY_IMPORTS = ("bitsandbytes", "peft")


@dataclass(frozen=True, slots=True)
class PipeEnds:
    """File descriptors of the runner's ends of its pipes; the runner exits when `control` is closed."""

    control: int
    messages: int
    stdout: int
    stderr: int


def preload(kinds: list[str]) -> None:
    """Import the modules that jobs of these kinds need, before the first assignment arrives."""
    for name in (*(f"workers.handlers.{kind}" for kind in kinds), *LAZY_IMPORTS):
        import_module(name)
    # Exempt all existing objects from garbage collection: collections become faster, and forks keep sharing the memory.
    gc.collect()
    gc.freeze()


def run(ends: PipeEnds) -> None:
    """Run the main loop: wait for an assignment, run it, report the outcome, then exit or wait for the next one."""
    with suppress(PermissionError):  # the process already leads a session
        os.setsid()  # put this process and its children in one group, which the worker can kill
    _redirect_output(ends)
    # With other start methods, locks that libraries create would outlive a killed runner.
    multiprocessing.set_start_method("fork", force=True)
    control = CommandReader(os.fdopen(ends.control, "rb"))
    runner = AttemptRunner(ends.messages, control)
    while True:
        last_word = runner.run(control.wait_for_assignment())
        _flush_output()
        _send(ends.messages, last_word)
        if isinstance(last_word, Paused) or last_word.kept is None:
            os._exit(0)  # do not wait for libraries' threads and exit handlers


class CommandReader:
    """Reads assignments, requests and calls from the worker. Kills this process when the worker exits.

    Attributes:
        pause: Set when the attempt must release its devices.
        make_room: Set when a serve job must end as soon as it is idle.
        chats: The channel that receives calls to the attempt.
    """

    def __init__(self, pipe: io.BufferedReader) -> None:
        self.pause = threading.Event()
        self.make_room = threading.Event()
        self.chats: tuple[str, ChatChannel] | None = None  # the current attempt's id and its channel
        self._assignments: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read_commands, args=(pipe,), name="control", daemon=True).start()

    def wait_for_assignment(self) -> Assignment:
        """Return the next assignment."""
        line = self._assignments.get()
        self.pause.clear()
        self.make_room.clear()
        return decode_assignment(line)

    def _read_commands(self, pipe: io.BufferedReader) -> None:
        for line in pipe:
            if line == PAUSE_COMMAND:
                self.pause.set()
            elif line == MAKE_ROOM_COMMAND:
                self.make_room.set()
            elif line.startswith(CALL_PREFIX):
                self._deliver_call(line)
            elif line.endswith(b"\n"):
                self._assignments.put(line)
        os.killpg(0, signal.SIGKILL)  # the worker has exited: kill this runner and all its children

    def _deliver_call(self, line: bytes) -> None:
        attempt_id, call = decode_call(line)
        if self.chats is not None and self.chats[0] == attempt_id:  # calls to an earlier attempt are dropped
            self.chats[1].deliver(call)


class AttemptRunner:
    """Runs attempts one after another, and keeps their model loaded in between."""

    def __init__(self, messages: int, control: CommandReader) -> None:
        from baichuan_core.checkpoint import ModelCache  # noqa: PLC0415 - keep it out of the worker's own process

        self._messages = messages
        self._control = control
        self._loaded = ModelCache()
        # The loaded model and its name.
        self._named: tuple[ModelCacheEntry | None, LoadedModel | None] = (None, None)
        self._context: HandlerContext | None = None
        self._store: ArtifactStore | None = None  # keeps the loaded model's files locked against eviction

    def run(self, assignment: Assignment) -> Finished | Failed | Paused:
        """Run an attempt; return the message for the worker, even after a failure."""
        try:
            return self._run_attempt(assignment)
        except (TrainingPausedError, DevicesReleasedError):
            return Paused()
        except BaseException as exception:  # noqa: BLE001 - the job's owner must learn of any failure
            failure = make_failure(exception)
            if not failure.expected:
                traceback.print_exc()
        # The exception no longer exists here, and neither do the tensors that its traceback referenced.
        return Failed(failure, self._keep_model(assignment) if failure.of_request else None)

    def _run_attempt(self, assignment: Assignment) -> Finished:
        claim, storage = assignment.claim, assignment.storage
        _set_up_environment(assignment)
        store = open_store_at(
            storage.artifact_root, cache=storage.cache, cache_bytes=storage.cache_bytes, variables=storage.variables
        )
        prepared = prepare_context(claim, store, storage.model_roots, ProgressReporter(self._messages))
        chats = ChatChannel(self._announce_chat_availability, self._reply)
        self._control.chats = claim.attempt.id, chats
        context = replace(
            prepared,
            should_pause=self._control.pause.is_set,
            should_make_room=self._control.make_room.is_set,
            loaded=self._loaded,
            chats=chats,
            hub_token=assignment.hub_token,
            reserve_bytes=storage.free_space_reserve_bytes,
        )
        self._store, self._context = store, context
        handler = import_handler(claim.spec)
        require_disk_space(claim.spec, handler, context, store)
        _set_up_libraries(assignment)
        require_memory(claim.spec, context)
        outcome = handler.run(claim.spec, context)
        if claim.allocation.node > 0:
            return Finished(outcome, [])  # only the first node publishes
        _send(self._messages, Progressed(1.0, "publishing", {}))
        stored = describe_files(context.output)
        store.publish(Workspace(claim.job.id, claim.attempt.id).output)
        return Finished(outcome, stored, self._keep_model(assignment))

    def _announce_chat_availability(self, accepts: bool) -> None:
        _send(self._messages, ServingChanged(accepts))

    def _reply(self, replies: Sequence[Reply]) -> None:
        _send(self._messages, Replied(replies))

    def _keep_model(self, assignment: Assignment) -> ModelKept | None:
        """Return the model that stays loaded; None if no model does, or if no other job could name it."""
        from baichuan_core.free_memory import held_bytes, release_memory  # noqa: PLC0415 - keep it out of the worker

        kept = self._loaded.kept
        if not assignment.keep or kept is None:
            return None
        if kept is not self._named[0] and self._context is not None:
            self._named = kept, identify_loaded_model(kept.source, assignment.claim, self._context)
        model = self._named[1]
        if model is None:
            return None
        release_memory()
        on_gpus, of_host = held_bytes()
        return ModelKept(model, kept.engine, on_gpus, of_host)


def _flush_output() -> None:
    """Flush all output, including that of native libraries, because later output belongs to no attempt."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _set_up_environment(assignment: Assignment) -> None:
    visible = build_device_variables(_list_cuda_uuids(assignment.claim.allocation))
    os.environ.update(visible)
    for name, value in visible.items():
        if value:
            print(f"{name}={value}")  # noqa: T201 - the job's log
    os.environ.setdefault("OMP_NUM_THREADS", str(assignment.threads))


class ProgressReporter:
    """Sends progress to the worker at a limited rate: every new stage, and the fraction a few times per second.

    The metrics of every step are sent, without a limit.
    """

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._stage = ""
        self._sent_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Send the progress, unless the last report was only a moment ago."""
        if point := to_point(progress.metrics):
            _send(self._messages, Measured(point))
        now = time.monotonic()
        if progress.stage == self._stage and now - self._sent_at < REPORT_INTERVAL_SECONDS and progress.fraction < 1:
            return
        self._stage, self._sent_at = progress.stage, now
        known = JobProgress.model_validate(asdict(progress))
        _send(self._messages, Progressed(known.fraction, known.stage, known.metrics))


def _send(messages: int, message: Message) -> None:
    """Write a message; ignore a broken pipe, because this process exits anyway once the worker has exited."""
    line = memoryview(encode_message(message))
    with suppress(BrokenPipeError):
        while line:
            line = line[os.write(messages, line) :]


def _list_cuda_uuids(allocation: AllocationRecord) -> list[str]:
    """Return the UUIDs to make visible to CUDA; CPUs are left out."""
    return [device["uuid"] for device in allocation.devices if not device["uuid"].startswith("cpu")]


def _redirect_output(ends: PipeEnds) -> None:
    """Redirect output to the pipes at file descriptor level, because native libraries also print."""
    os.dup2(ends.stdout, 1)
    os.dup2(ends.stderr, 2)
    # The inherited streams may have been opened on a file, and would still buffer and seek as if they were files.
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.close(ends.stdout)
    os.close(ends.stderr)
    faulthandler.enable(file=2)


def _set_up_libraries(assignment: Assignment) -> None:
    import torch  # noqa: PLC0415 - keep it out of the worker's own process
    from transformers.utils import logging  # noqa: PLC0415

    from baichuan_core.free_memory import limit_memory  # noqa: PLC0415

    torch.set_num_threads(assignment.threads)
    logging.disable_progress_bar()  # progress bars are for terminals; jobs report progress as messages
    allocation = assignment.claim.allocation
    limit_memory([] if allocation.exclusive else [device["reserved_bytes"] for device in allocation.devices])


def main(arguments: list[str]) -> None:
    """Preload modules, then run assignments: `python -m workers.runner KINDS CONTROL MESSAGES STDOUT STDERR`."""
    kinds, *descriptors = arguments
    preload(kinds.split(","))
    run(PipeEnds(*(int(each) for each in descriptors)))


if __name__ == "__main__":
    main(sys.argv[1:])
