"""The worker's side of a runner process: start it, hear it, kill it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from multiprocessing import connection, forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext

from workers.inventory import Inventory
from workers.logs import LineReader
from workers.runner import Assignment, Message, Wires, run
from workers.settings import WorkerSettings

READ_BYTES = 1 << 16
CLOSE_SECONDS = 5

Line = tuple[str, list[str]]


class RunnerStarter:
    """Starts runners: from a fork server that has done the imports, or, where there is CUDA, as fresh processes.

    CUDA does not survive a fork, and whether a fork server's child could use it is not shown yet.
    """

    def __init__(self, worker: WorkerSettings) -> None:
        self._context: ForkServerContext | SpawnContext
        method = worker.start_method
        if method == "spawn" or (method == "auto" and Inventory().has_gpu()):
            self._context = get_context("spawn")
        else:
            self._context = get_context("forkserver")
            # In place of the default, which would import the worker's own main module. The last two are imported by
            # what needs them, and cost two seconds.
            handlers = [f"workers.handlers.{kind}" for kind in worker.kinds]
            self._context.set_forkserver_preload(
                ["workers.tether", "workers.runner", *handlers, "bitsandbytes", "peft"]
            )

    def warm_up(self) -> None:
        """Begin the imports, so that the first job need not wait for them; returns at once."""
        if isinstance(self._context, ForkServerContext):
            forkserver.ensure_running()

    def start(self, assignment: Assignment) -> "StartingRunner":
        """Begin to start a runner; returns at once, even while the fork server is still importing.

        Call it from a thread that lives as long as the worker: a fork server ends with the thread that started it.
        """
        self.warm_up()  # the fork server may have died
        return StartingRunner(self._context, assignment)


class StartingRunner:
    """A runner that a thread of its own is starting."""

    def __init__(self, context: ForkServerContext | SpawnContext, assignment: Assignment) -> None:
        self._started: Future[Runner] = Future()
        thread = threading.Thread(target=self._start, args=(context, assignment), name="start runner", daemon=True)
        thread.start()

    def wait(self, timeout: float) -> "Runner | None":
        """The runner, or None if it has not started after `timeout` seconds; raises what prevented its start."""
        wait([self._started], timeout)
        return self._started.result() if self._started.done() else None

    def abandon(self) -> None:
        """Kill the runner as soon as it has started. Until then it cannot do anything."""
        self._started.add_done_callback(_close_runner)

    def _start(self, context: ForkServerContext | SpawnContext, assignment: Assignment) -> None:
        try:
            self._started.set_result(Runner(context, assignment))
        except Exception as error:  # noqa: BLE001 - it is raised again in the thread that waits
            self._started.set_exception(error)


def _close_runner(started: "Future[Runner]") -> None:
    if started.exception() is None:
        started.result().close(CLOSE_SECONDS)


class Runner:
    """One runner process."""

    def __init__(self, context: ForkServerContext | SpawnContext, assignment: Assignment) -> None:
        alive, self._alive = context.Pipe(duplex=False)
        self._messages, messages = context.Pipe(duplex=False)
        out, stdout = context.Pipe(duplex=False)
        err, stderr = context.Pipe(duplex=False)
        self._streams = {out: ("stdout", LineReader()), err: ("stderr", LineReader())}
        wires = Wires(alive, messages, stdout, stderr)
        self._process = context.Process(target=run, args=(assignment, wires), name=assignment.claim.attempt.id)
        self._process.start()
        for end in (alive, messages, stdout, stderr):
            end.close()  # else the pipes would never report the runner's end
        self._open: set[Connection] = {self._messages, *self._streams}

    @property
    def pid(self) -> int:
        """Process id, and the id of the process group as well."""
        if self._process.pid is None:
            raise RuntimeError("the runner was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._process.exitcode

    @property
    def silent(self) -> bool:
        """Whether nothing more can come from it."""
        return not self._open

    def listen(self, timeout: float) -> Iterator[Message | Line]:
        """What the runner said within `timeout` seconds: messages, and lines it printed with their stream's name."""
        watched = [*self._open] if self._open else [self._process.sentinel]
        for ready in connection.wait(watched, timeout):
            if ready is self._messages:
                yield from self._message()
            elif isinstance(ready, Connection):
                yield from self._lines(ready)

    def kill(self) -> None:
        """End the runner and all it has started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.exit_code is None:  # it may not have made its group yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self, timeout: float) -> None:
        """Kill what is left, and free everything."""
        self.kill()
        self._process.join(timeout)
        for end in (self._alive, self._messages, *self._streams):
            end.close()

    def _message(self) -> Iterator[Message]:
        try:
            message: Message = self._messages.recv()
        except (EOFError, OSError):
            self._open.discard(self._messages)
        else:
            yield message

    def _lines(self, stream: Connection) -> Iterator[Line]:
        name, reader = self._streams[stream]
        data = os.read(stream.fileno(), READ_BYTES)
        if not data:
            self._open.discard(stream)
        if lines := reader.feed(data) if data else reader.close():
            yield name, lines
