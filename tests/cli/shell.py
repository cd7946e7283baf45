"""`baichuan` as a user runs it: quick commands in the test's process, `up` in a separate process."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from cli import main

BAICHUAN = str(Path(sys.executable).with_name("baichuan"))
START_SECONDS = 60
STOP_SECONDS = 15


@dataclass
class Result:
    """What a finished command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass
class Shell:
    """Runs `baichuan` in a directory, without the environment variables of the developer's deployment."""

    directory: Path

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        """Run a client command to its end, in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.directory),
            patch.dict(os.environ, self.variables(environment), clear=True),
            patch.object(sys, "argv", ["baichuan", *arguments]),
            patch.object(sys, "stdin", io.StringIO(stdin)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run_to_exit()
        return Result(code, out.getvalue(), err.getvalue())

    def process(self, *arguments: str, **environment: str) -> Result:
        """Run a command in a separate process until it ends."""
        done = subprocess.run(
            [BAICHUAN, *arguments],
            cwd=self.directory,
            env=self.variables(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a command."""
        ours = ("BAICHUAN_", "REDIS_URL", "DATABASE_URL", "ARTIFACT_ROOT")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**clean, "COLUMNS": "200", **(more or {})}


def run_to_exit() -> int:
    """The exit code of `cli.main.run`."""
    try:
        main.run()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


class Up:
    """`baichuan up` in a separate process group, as a terminal starts it."""

    def __init__(self, shell: Shell, *arguments: str, **environment: str) -> None:
        self.home = shell.directory / ".baichuan"
        self.output = shell.directory / f"up-{time.monotonic_ns()}.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [BAICHUAN, "up", *arguments],
                cwd=shell.directory,
                env=shell.variables(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> str:
        """Wait for the printed address and return it."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"http://127\.0\.0\.1:\d+", self.printed()):
                return found.group()
            time.sleep(0.05)
        raise AssertionError(f"up is not ready: {self.printed()}")

    def printed(self) -> str:
        """Everything that it has printed so far."""
        return self.output.read_text()

    def family(self) -> set[int]:
        """Its descendants."""
        return descendants(self.process.pid)

    def interrupt(self) -> int:
        """Ctrl-C: SIGINT to the whole process group; returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(STOP_SECONDS)

    def end(self) -> None:
        """Stop everything, whether the test passed or failed."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_SECONDS)


def descendants(pid: int) -> set[int]:
    """All processes below this one."""
    parents = {int(p.name): parent_of(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def parent_of(process: Path) -> int:
    """The parent's id of a process in /proc; 0 if it is gone."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pids: set[int]) -> set[int]:
    """Return the processes that are still running, without zombies."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            running.add(pid)
    return running


def wait_until_gone(pids: set[int], seconds: float = 10) -> set[int]:
    """Wait for the end of these processes; returns those that did not end."""
    deadline = time.monotonic() + seconds
    while (left := alive(pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
