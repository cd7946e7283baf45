"""Starts runners: either forks of a process that has done the imports, or spare processes that import in advance."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol

from jobs.identifiers import new_id
from workers.environment import build_runner_environment
from workers.inventory import Inventory
from workers.messages import Assignment
from workers.process import Process, Runner, RunnerPipes
from workers.settings import WorkerSettings

CLOSE_TIMEOUT_SECONDS = 5
MAX_REPLY_BYTES = 4096


class RunnerSource(Protocol):
    """An interface for starting runners."""

    def warm_up(self) -> None:
        """Begin the imports; return at once."""
        ...

    def start(self) -> Runner:
        """Return a runner that waits for its assignment; this may take as long as the imports.

        Raises:
            RuntimeError: The runner could not be started.
        """
        ...


class RunnerStarter:
    """Starts runners in the way that suits the machine.

    CUDA does not survive a fork, and whether it works in a child of a fork server is unproven, so a machine with GPUs
    uses spare processes.
    """

    def __init__(self, worker: WorkerSettings) -> None:
        spare = worker.start_method == "spawn" or (worker.start_method == "auto" and Inventory().has_gpu())
        source = SpareProcessSource if spare else ForkServerSource
        self._source: RunnerSource = source(worker.kinds, build_runner_environment(os.environ, worker.runner_variables))

    def warm_up(self) -> None:
        """Begin the imports, so that the first job need not wait for them; return at once."""
        self._source.warm_up()

    def start(self, assignment: Assignment, resident: Runner | None = None) -> "StartingRunner":
        """Start a runner in the background, or give a resident another assignment; return at once even during imports.

        Call this method from a thread that lives as long as the worker, because the preloaded processes are killed when
        the thread that started them ends.
        """
        if resident is not None:
            return StartingRunner(lambda: resident, assignment)
        self._source.warm_up()  # restart the preloaded process if it has died
        return StartingRunner(self._source.start, assignment)


class StartingRunner:
    """A runner that is being started by a separate thread."""

    def __init__(self, source: Callable[[], Runner], assignment: Assignment) -> None:
        self._started: Future[Runner] = Future()
        thread = threading.Thread(target=self._start, args=(source, assignment), name="start runner", daemon=True)
        thread.start()

    def wait(self, timeout: float) -> Runner | None:
        """Return the runner; None if it has not started after `timeout` seconds. Raise the error if it cannot start."""
        wait([self._started], timeout)
        return self._started.result() if self._started.done() else None

    def abandon(self) -> None:
        """Kill the runner as soon as it has started; until then, it cannot do anything."""
        self._started.add_done_callback(_close_runner)

    def _start(self, source: Callable[[], Runner], assignment: Assignment) -> None:
        try:
            runner = source()
        except Exception as error:  # noqa: BLE001 - it is raised again in the waiting thread
            self._started.set_exception(error)
            return
        self._started.set_result(runner)
        runner.assign(assignment)


def _close_runner(started: "Future[Runner]") -> None:
    if started.exception() is None:
        started.result().close(CLOSE_TIMEOUT_SECONDS)


class SpareProcessSource:
    """Keeps one spare process that has done the imports and waits for an assignment; replaces it once it is taken."""

    def __init__(self, kinds: Sequence[str], environment: Mapping[str, str]) -> None:
        self._kinds = ",".join(kinds)
        self._environment = environment
        self._lock = threading.Lock()
        self._spare: Runner | None = None

    def warm_up(self) -> None:
        """See `RunnerSource`."""
        with self._lock:
            if self._spare is None or self._spare.exit_code is not None:
                self._spare = self._spawn()

    def start(self) -> Runner:
        """See `RunnerSource`."""
        with self._lock:
            taken, self._spare = self._spare or self._spawn(), self._spawn()
        return taken

    def _spawn(self) -> Runner:
        pipes = RunnerPipes.open()
        ends = [pipes.theirs.control, pipes.theirs.messages, pipes.theirs.stdout, pipes.theirs.stderr]
        started = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "workers.runner", self._kinds, *map(str, ends)],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )
        return Runner(SpawnedProcess(started), pipes)


class SpawnedProcess:
    """A child of this process."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self.pid = child.pid

    @property
    def exit_code(self) -> int | None:
        """See `Process`."""
        return self._child.poll()

    def wait(self, timeout: float) -> None:
        """See `Process`."""
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return


class ForkServerSource:
    """Starts `workers.fork_server`, restarts it if it has died, and requests runners from it."""

    def __init__(self, kinds: Sequence[str], environment: Mapping[str, str]) -> None:
        self._kinds = ",".join(kinds)
        self._environment = environment
        self._lock = threading.Lock()
        self._server: _ForkServerConnection | None = None

    def warm_up(self) -> None:
        """See `RunnerSource`."""
        with self._lock:
            if self._server is None or not self._server.alive:
                self._server = _ForkServerConnection(self._kinds, self._environment)

    def start(self) -> Runner:
        """See `RunnerSource`."""
        self.warm_up()
        with self._lock:
            server = self._server
        if server is None:
            raise RuntimeError("the fork server is not running")
        pipes = RunnerPipes.open()
        try:
            process: Process = server.fork(pipes)
        except BaseException:
            pipes.close()
            raise
        return Runner(process, pipes)


class _ForkServerConnection:
    """One fork server process and the socket over which it reports on its children."""

    def __init__(self, kinds: str, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "workers.fork_server", str(theirs.fileno()), kinds],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self._channel = ours
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[ForkedProcess]] = {}
        self._children: dict[int, ForkedProcess] = {}
        self.alive = True
        threading.Thread(target=self._listen, name="fork server", daemon=True).start()

    def fork(self, pipes: RunnerPipes) -> "ForkedProcess":
        """Request a runner with these pipes from the fork server, and wait until it has been forked.

        Raises:
            RuntimeError: The fork server has died.
        """
        token, answer = new_id("run"), Future[ForkedProcess]()
        with self._lock:
            self._waiting[token] = answer
        ends = [pipes.theirs.control, pipes.theirs.messages, pipes.theirs.stdout, pipes.theirs.stderr]
        try:
            socket.send_fds(self._channel, [token.encode()], ends)
        except OSError as error:
            raise RuntimeError(f"the fork server has died: {error}") from error
        return answer.result()

    def _listen(self) -> None:
        while True:
            try:
                answer = self._channel.recv(MAX_REPLY_BYTES)
            except OSError:
                answer = b""
            if not answer:
                break
            self._handle_message(json.loads(answer))
        self._process.wait()
        self._mark_dead()

    def _handle_message(self, said: dict[str, Any]) -> None:
        with self._lock:
            if "token" in said:
                child = self._children.setdefault(said["pid"], ForkedProcess(said["pid"]))
                self._waiting.pop(said["token"]).set_result(child)
            elif said["pid"] in self._children:
                self._children.pop(said["pid"]).mark_ended(said["code"])

    def _mark_dead(self) -> None:
        """Record that the fork server has died. Its children keep running, but their exits are no longer reported."""
        with self._lock:
            self.alive = False
            for answer in self._waiting.values():
                answer.set_exception(RuntimeError("the fork server has died"))
            for child in self._children.values():
                child.mark_orphaned()
            self._waiting.clear()
            self._channel.close()


class ForkedProcess:
    """A child of the fork server."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = threading.Event()
        self._code: int | None = None
        self._orphaned = False

    @property
    def exit_code(self) -> int | None:
        """See `Process`; if the fork server has died, the code is 1, because the real one is unknown."""
        if self._orphaned and self._code is None and not _process_exists(self.pid):
            self.mark_ended(1)
        return self._code

    def wait(self, timeout: float) -> None:
        """See `Process`."""
        self._ended.wait(0 if self._orphaned else timeout)

    def mark_ended(self, code: int) -> None:
        """Record that the process has exited."""
        self._code = code
        self._ended.set()

    def mark_orphaned(self) -> None:
        """Record that the exit of the process will not be reported."""
        self._orphaned = True


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
