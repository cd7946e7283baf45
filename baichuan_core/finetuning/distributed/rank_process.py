"""One rank as its launcher sees it: a child process, its messages, and the last lines that it printed."""

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

import baichuan_core
from baichuan_core.finetuning.distributed.messages import PAUSE, Task, decode_message
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.progress import Progress

KEPT_LINES = 20
READ_BYTES = 1 << 16
SCRIPT = Path(__file__).with_name("rank_main.py")


class RankProcess:
    """A rank in the process group of its launcher; the kernel kills it if the launcher's thread ends.

    Attributes:
        rank: Index among all ranks.
        report: Result, once the rank has sent it.
        error: Error that the rank has sent.
        lines: Last lines of its output.
    """

    def __init__(self, task: Task, environment: Mapping[str, str], relayed_to: IO[str]) -> None:
        """Start the rank."""
        self.rank = task.group.rank
        self.report: FinetuningReport | None = None
        self.error: Exception | None = None
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._relayed_to = relayed_to
        self._partial: dict[int, bytes] = {}
        messages, their_messages = os.pipe()
        output, their_output = os.pipe()
        self._open = {messages: self._read_message, output: self._read_output}
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", str(SCRIPT), str(their_messages), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=their_output,
                stderr=their_output,
                pass_fds=[their_messages],
                env={**environment, "PYTHONPATH": _search_path(environment)},
            )
        finally:
            os.close(their_messages)
            os.close(their_output)
        self._tell(task.encode())

    @property
    def descriptors(self) -> list[int]:
        """File descriptors on which the rank may say something."""
        return list(self._open)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended and all of its output has been read."""
        return self.process.poll() is not None and not self._open

    @property
    def has_failed(self) -> bool:
        """Whether it has sent an error, or ended without a report."""
        return self.error is not None or (self.has_ended and self.report is None)

    def ask_to_pause(self) -> None:
        """Make all ranks save a resume point after the current step and end."""
        self._tell(PAUSE)

    def read(self, descriptor: int) -> Iterator[Progress]:
        """Read what the rank has said; yield its progress and keep the rest."""
        data = os.read(descriptor, READ_BYTES)
        *lines, self._partial[descriptor] = (self._partial.get(descriptor, b"") + data).split(b"\n")
        if not data and self._partial[descriptor]:
            lines.append(self._partial.pop(descriptor))
        for line in lines:
            if (progress := self._open[descriptor](line)) is not None:
                yield progress
        if not data:
            del self._open[descriptor]
            os.close(descriptor)

    def describe_end(self) -> str:
        """Say how the rank ended, in a few words."""
        code = self.process.poll()
        if self.error is not None:
            return f"failed: {self.error}"
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"was ended by {name}" + (" (the machine may be out of memory)" if name == "SIGKILL" else "")
        return f"ended without a result (exit code {code})"

    def close(self) -> None:
        """Kill the process if it still runs, and close the pipes."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        for descriptor in self._open:
            os.close(descriptor)
        self._open = {}

    def _tell(self, line: bytes) -> None:
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # if it has ended, its exit code says why
                self.process.stdin.write(line)
                self.process.stdin.flush()

    def _read_message(self, line: bytes) -> Progress | None:
        try:
            message = decode_message(line)
        except (json.JSONDecodeError, KeyError, TypeError):  # a line that a killed rank has half written
            return None
        match message:
            case Progress():
                return message
            case FinetuningReport():
                self.report = message
            case _:
                self.error = message
        return None

    def _read_output(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        self.lines.append(text)
        self._relayed_to.write(f"[rank {self.rank}] {text}\n")


def _search_path(environment: Mapping[str, str]) -> str:
    """Return a PYTHONPATH with which the rank imports the package that runs here."""
    own = str(Path(baichuan_core.__file__).parents[1])
    return os.pathsep.join(filter(None, [own, environment.get("PYTHONPATH")]))
