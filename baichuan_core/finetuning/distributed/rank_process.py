"""The child process of a rank, with its messages and the last lines of its output."""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from baichuan_core.finetuning.distributed.messages import PAUSE_COMMAND, RankTask, ResumePointSaved, decode_message
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.progress import Progress

MAX_OUTPUT_LINES = 20
READ_CHUNK_BYTES = 1 << 16
RANK_SCRIPT = Path(__file__).with_name("rank_main.py")
IMPORT_ROOT = RANK_SCRIPT.parents[3]  # the folder that contains `baichuan_core`


class RankProcess:
    """The process of one rank, in the launcher's process group; the kernel kills it if the launcher's thread exits.

    Attributes:
        rank: Index among all ranks.
        report: The report, once the rank has sent it.
        error: The error that the rank has sent, if any.
        lines: The last lines of its output.
    """

    def __init__(self, task: RankTask, environment: Mapping[str, str], relay: IO[str]) -> None:
        """Start the rank."""
        self.rank = task.group.rank
        self.report: FinetuningReport | None = None
        self.error: Exception | None = None
        self.lines: deque[str] = deque(maxlen=MAX_OUTPUT_LINES)
        self._relay = relay
        self._partial: dict[int, bytes] = {}
        messages, rank_messages = os.pipe()
        output, rank_output = os.pipe()
        self._open = {messages: self._read_message, output: self._read_output}
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", str(RANK_SCRIPT), str(rank_messages), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=rank_output,
                stderr=rank_output,
                pass_fds=[rank_messages],
                env={**environment, "PYTHONPATH": _make_python_path(environment)},
            )
        finally:
            os.close(rank_messages)
            os.close(rank_output)
        self._send(task.encode())

    @property
    def descriptors(self) -> list[int]:
        """File descriptors of the rank's messages and output that are still open."""
        return list(self._open)

    @property
    def has_exited(self) -> bool:
        """Whether the process has exited and all of its output has been read."""
        return self.process.poll() is not None and not self._open

    @property
    def has_failed(self) -> bool:
        """Whether the rank has sent an error or exited without a report."""
        return self.error is not None or (self.has_exited and self.report is None)

    def request_pause(self) -> None:
        """Request that all ranks save a resume point after the current step and then exit."""
        self._send(PAUSE_COMMAND)

    def read(self, descriptor: int) -> Iterator[Progress | ResumePointSaved]:
        """Read from a descriptor; yield progress and resume points, and store reports, errors and output lines."""
        data = os.read(descriptor, READ_CHUNK_BYTES)
        *lines, self._partial[descriptor] = (self._partial.get(descriptor, b"") + data).split(b"\n")
        if not data and self._partial[descriptor]:
            lines.append(self._partial.pop(descriptor))
        for line in lines:
            if (message := self._open[descriptor](line)) is not None:
                yield message
        if not data:
            del self._open[descriptor]
            os.close(descriptor)

    def describe_outcome(self) -> str:
        """Return a short description of how the rank failed or exited."""
        code = self.process.poll()
        if self.error is not None:
            return f"failed: {self.error}"
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"was killed by {name}" + (" (the machine may be out of memory)" if name == "SIGKILL" else "")
        return f"exited without a result (exit code {code})"

    def close(self) -> None:
        """Kill the process if it is still running, and close the pipes."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        for descriptor in self._open:
            os.close(descriptor)
        self._open = {}

    def _send(self, line: bytes) -> None:
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # the process has exited; its exit code shows why
                self.process.stdin.write(line)
                self.process.stdin.flush()

    def _read_message(self, line: bytes) -> Progress | ResumePointSaved | None:
        try:
            message = decode_message(line)
        except (json.JSONDecodeError, KeyError, TypeError):  # a killed rank may have written only part of a line
            return None
        match message:
            case Progress() | ResumePointSaved():
                return message
            case FinetuningReport():
                self.report = message
            case _:
                self.error = message
        return None

    def _read_output(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        self.lines.append(text)
        self._relay.write(f"[rank {self.rank}] {text}\n")


def _make_python_path(environment: Mapping[str, str]) -> str:
    """Return a PYTHONPATH that makes the rank import the same package as this process."""
    return os.pathsep.join(filter(None, [str(IMPORT_ROOT), environment.get("PYTHONPATH")]))
