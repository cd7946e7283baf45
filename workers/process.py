"""The worker's side of a runner process: sends assignments, reads the runner's messages, and kills the runner."""

import os
import selectors
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from jobs.chats.messages import Call
from workers.logs import LineSplitter
from workers.messages import (
    MAKE_ROOM_COMMAND,
    PAUSE_COMMAND,
    Assignment,
    Message,
    decode_message,
    encode_assignment,
    encode_call,
)
from workers.runner import PipeEnds

READ_CHUNK_BYTES = 1 << 16
REQUEST_TIMEOUT_SECONDS = 1.0

OutputLines = tuple[str, list[str]]


class Process(Protocol):
    """A process started by this process or by another one."""

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        ...

    @property
    def exit_code(self) -> int | None:
        """The exit code: None while the process runs, negative if a signal ended it."""
        ...

    def wait(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the process to exit."""
        ...


@dataclass(slots=True)
class RunnerPipes:
    """The pipes of a runner: the worker's ends, and the runner's ends until they are handed over."""

    control: int
    messages: int
    stdout: int
    stderr: int
    theirs: PipeEnds
    runner_ends_closed: bool = False

    @classmethod
    def open(cls) -> "RunnerPipes":
        """Create all pipes."""
        their_control, control = os.pipe()
        messages, their_messages = os.pipe()
        stdout, their_stdout = os.pipe()
        stderr, their_stderr = os.pipe()
        ends = PipeEnds(their_control, their_messages, their_stdout, their_stderr)
        return cls(control, messages, stdout, stderr, ends)

    def close_runner_ends(self) -> None:
        """Close our copies of the runner's ends; otherwise our ends would never report that the runner has exited."""
        if not self.runner_ends_closed:
            self.runner_ends_closed = True
            for end in (self.theirs.control, self.theirs.messages, self.theirs.stdout, self.theirs.stderr):
                os.close(end)

    def close(self) -> None:
        """Close both ends of all pipes."""
        self.close_runner_ends()
        for end in (self.control, self.messages, self.stdout, self.stderr):
            os.close(end)


@dataclass(slots=True)
class Runner:
    """One runner process."""

    process: Process
    pipes: RunnerPipes
    _open: set[int] = field(init=False)
    _partial: bytes = b""
    _lines: dict[int, tuple[str, LineSplitter]] = field(init=False)
    _closed: threading.Lock = field(default_factory=threading.Lock)
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _has_pipes: bool = True

    def __post_init__(self) -> None:
        """Start listening to the runner's pipes."""
        self.pipes.close_runner_ends()
        self._lines = {
            self.pipes.stdout: ("stdout", LineSplitter()),
            self.pipes.stderr: ("stderr", LineSplitter()),
        }
        self._open = {self.pipes.messages, *self._lines}

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code: None while the process runs, negative if a signal ended it."""
        return self.process.exit_code

    @property
    def is_silent(self) -> bool:
        """Whether all output pipes are closed, so that the runner can send nothing more."""
        return not self._open

    def assign(self, assignment: Assignment) -> None:
        """Send the runner its assignment. If the runner has already exited, its exit code says why."""
        with self._writing:
            self._write(encode_assignment(assignment))

    def ask_to_pause(self) -> None:
        """Ask the runner to save a resume point and release its devices; a stuck runner will not notice."""
        self._send_request(PAUSE_COMMAND)

    def ask_to_make_room(self) -> None:
        """Ask the runner to end its serve job once no chats are open; a stuck runner will not notice."""
        self._send_request(MAKE_ROOM_COMMAND)

    def _send_request(self, line: bytes) -> None:
        if self._writing.acquire(timeout=REQUEST_TIMEOUT_SECONDS):
            try:
                self._write(line)
            finally:
                self._writing.release()

    def send_call(self, attempt_id: str, call: Call) -> None:
        """Pass a call on to an attempt. Any thread may use this method; it blocks until the runner reads the call."""
        with self._writing:
            self._write(encode_call(attempt_id, call))

    def listen(self, timeout: float) -> Iterator[Message | OutputLines]:
        """Wait up to `timeout` seconds for output; yield messages, and printed lines with the name of their stream."""
        if not self._open:
            self.process.wait(timeout)
            return
        with selectors.PollSelector() as selector:
            for end in self._open:
                selector.register(end, selectors.EVENT_READ)
            ready = [key.fd for key, _ in selector.select(timeout)]
        for end in ready:
            data = os.read(end, READ_CHUNK_BYTES)
            if not data:
                self._open.discard(end)
            if end == self.pipes.messages:
                yield from self._read_messages(data)
            else:
                name, reader = self._lines[end]
                if lines := reader.feed(data) if data else reader.close():
                    yield name, lines

    def take_unfinished_lines(self) -> Iterator[OutputLines]:
        """Yield the unfinished lines of an attempt that has ended, because later output belongs to another attempt."""
        for name, reader in self._lines.values():
            if lines := reader.close():
                yield name, lines

    def kill(self) -> None:
        """Kill the runner and all processes that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.exit_code is None:  # the runner may not have created its process group yet
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self, timeout: float) -> None:
        """Kill all remaining processes, wait up to `timeout` seconds for the runner to exit, and close the pipes."""
        self.kill()
        self.process.wait(timeout)
        if self._closed.acquire(blocking=False):
            self._close_pipes(timeout)

    def _close_pipes(self, timeout: float) -> None:
        """Close the pipes, unless a thread is stuck in a write because a stray process keeps the other end open."""
        if self._writing.acquire(timeout=timeout):
            self._has_pipes = False
            self.pipes.close()
            self._writing.release()

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        with suppress(BrokenPipeError):
            while rest and self._has_pipes:
                rest = rest[os.write(self.pipes.control, rest) :]

    def _read_messages(self, data: bytes) -> Iterator[Message]:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            yield decode_message(line)
