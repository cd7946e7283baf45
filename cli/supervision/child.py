"""One child process of `baichuan up`."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TETHER_SCRIPT = Path(__file__).with_name("tether.py")
MAX_LOG_BYTES = 16 * 2**20
TAIL_LINES = 12
POLL_INTERVAL_SECONDS = 0.05


@dataclass
class Child:
    """A program in a separate session, so Ctrl-C in the terminal only reaches `up`, which stops its children in order.

    Attributes:
        name: Its name in messages.
        command: Absolute path of the program, and its arguments.
        log: File to which its output is appended.
        grace_seconds: How long it may take to exit after SIGTERM.
        environment: Variables in addition to those of this process.
        stdin: Its standard input; secrets are passed here, never on the command line.
        inherited: File descriptors that the program inherits.
    """

    name: str
    command: Sequence[str]
    log: Path
    grace_seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    inherited: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = None
    log_start: int = 0

    def start(self) -> None:
        """Start the program; it dies when this process does, even after `kill -9`."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.rotate_log()
        with self.log.open("ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
                [sys.executable, "-I", "-S", str(TETHER_SCRIPT), str(os.getpid()), *self.command],
                stdin=subprocess.PIPE if self.stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
                pass_fds=self.inherited,
            )
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(self.stdin)
                self.process.stdin.close()

    def rotate_log(self) -> None:
        """Move an oversized log to `<name>.log.1`, even while the program is writing to it.

        The program keeps its file open for appending, so the content is copied and the file emptied. Lines that are
        written between the two steps are lost. If the disk is full, the log is left unchanged until the next call.
        """
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)
                self.log_start = 0

    def get_exit_code(self) -> int | None:
        """Return the exit code, or None while the program runs; negative numbers are signals."""
        return self.process.poll() if self.process else None

    def terminate(self, impatient: Callable[[], bool]) -> None:
        """Ask the program to exit; kill its process group if that takes too long or `impatient` returns True."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self.grace_seconds
        while time.monotonic() < deadline and not impatient():
            try:
                self.process.wait(POLL_INTERVAL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            return
        self.kill()

    def kill(self) -> None:
        """Kill the program and its process group."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def read_log_tail(self) -> str:
        """Return the last lines that the program has logged since its start."""
        try:
            with self.log.open(encoding="utf-8", errors="replace") as lines:
                lines.seek(self.log_start)
                return "".join(deque(lines, TAIL_LINES)).rstrip() or "(nothing)"
        except FileNotFoundError:
            return "(nothing)"
