"""Keeps the child processes of `baichuan up` running, and stops them in order."""

import time
from dataclasses import dataclass

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import print_message
from cli.supervision.child import Child
from cli.supervision.orphans import kill_orphans, reap_orphans
from cli.supervision.stop_request import StopRequest
from jobs.settings import EXIT_INVALID_SETTINGS

QUICK_EXIT_SECONDS = 5.0  # a child that exits sooner counts as having failed to start
MAX_QUICK_EXITS = 3
MIN_RESTART_DELAY_SECONDS = 0.25
MAX_RESTART_DELAY_SECONDS = 30.0
ROTATION_INTERVAL_SECONDS = 10.0  # seconds between checks of the log sizes


@dataclass
class _WatchedChild:
    child: Child
    started: float
    quick_exits: int = 0
    delay: float = MIN_RESTART_DELAY_SECONDS
    restart_at: float | None = None


class Supervisor:
    """Starts, restarts and stops children; the last one started is stopped first."""

    def __init__(self) -> None:
        self._watched: list[_WatchedChild] = []
        self._rotate_at = 0.0

    def start(self, child: Child) -> None:
        """Start a child and watch it from now on."""
        child.start()
        self.watch(child)

    def watch(self, child: Child) -> None:
        """Watch a child that is already running."""
        self._watched.append(_WatchedChild(child, time.monotonic()))

    def check_children(self, *others: int) -> None:
        """Restart children that have exited, after increasing delays; rotate the logs and reap orphans.

        Args:
            others: Process ids of the caller's other children.

        Raises:
            CommandError: a child exited several times immediately after starting, or because of its settings.
        """
        for watched in self._watched:
            if watched.restart_at is not None:
                if time.monotonic() >= watched.restart_at:
                    self._restart(watched)
            elif (code := watched.child.get_exit_code()) is not None:
                self._handle_exit(watched, code)
        reap_orphans({*others, *(w.child.process.pid for w in self._watched if w.child.process)})
        if time.monotonic() >= self._rotate_at:
            self._rotate_at = time.monotonic() + ROTATION_INTERVAL_SECONDS
            for watched in self._watched:
                watched.child.rotate_log()

    def stop(self, request: StopRequest) -> None:
        """Stop all children, last started first, and kill their descendants; a second request kills them at once."""
        for watched in reversed(self._watched):
            watched.child.terminate(impatient=lambda: request.urgent)
        kill_orphans()

    def format_log_tails(self) -> str:
        """Return the last lines of every log."""
        return "\n".join(f"{w.child.log}:\n{w.child.read_log_tail()}" for w in self._watched)

    def _restart(self, watched: _WatchedChild) -> None:
        watched.child.start()
        watched.started = time.monotonic()
        watched.restart_at = None

    def _handle_exit(self, watched: _WatchedChild, code: int) -> None:
        child, now = watched.child, time.monotonic()
        if now - watched.started < QUICK_EXIT_SECONDS:
            watched.quick_exits += 1
            watched.delay = min(watched.delay * 2, MAX_RESTART_DELAY_SECONDS)
        else:
            watched.quick_exits, watched.delay = 0, MIN_RESTART_DELAY_SECONDS
        ended = f"the {child.name} exited ({describe_exit(code)})"
        report = f"the last lines of {child.log}:\n{child.read_log_tail()}"
        if code == EXIT_INVALID_SETTINGS:
            raise CommandError(f"{ended}; restarting it would not help; {report}", ExitCode.USAGE)
        if watched.quick_exits >= MAX_QUICK_EXITS:
            raise CommandError(f"{ended} {MAX_QUICK_EXITS} times immediately after starting; {report}")
        print_message(f"{ended}; it will be restarted in {watched.delay:g} s; {report}")
        watched.restart_at = now + watched.delay


def describe_exit(code: int) -> str:
    """Describe an exit code in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
