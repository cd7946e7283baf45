"""Children that die, children that ignore signals, and the processes they leave behind."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.supervision.child import Child
from cli.supervision.supervisor import Supervisor
from tests.cli.shell import alive, descendants, wait_until_gone


def test_a_child_that_dies_at_once_again_and_again_ends_it_with_the_reason(tmp_path: Path) -> None:
    supervisor = Supervisor()
    log = tmp_path / "api.log"
    log.write_text("an older line\n")
    supervisor.start(Child("API", ["/bin/sh", "-c", "echo no such module; exit 3"], log, grace_seconds=1))
    with pytest.raises(CommandError) as caught:
        watch_for(supervisor, 20)
    message = str(caught.value)
    assert message.startswith("the API exited (exit code 3) 3 times immediately after starting")
    assert message.endswith("no such module")
    assert "an older line" not in message


def test_a_child_that_cannot_use_its_settings_is_not_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor()
    log = tmp_path / "api.log"
    supervisor.start(Child("API", ["/bin/sh", "-c", "echo started >&2; exit 2"], log, grace_seconds=1))
    with pytest.raises(CommandError) as caught:
        watch_for(supervisor, 20)
    assert caught.value.code is ExitCode.USAGE
    assert log.read_text() == "started\n"


TALKATIVE = "n=0; while true; do n=$((n+1)); echo line $n; sleep 0.001; done"


def test_a_log_is_rotated_while_its_program_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.supervision.child.MAX_LOG_BYTES", 500)
    monkeypatch.setattr("cli.supervision.supervisor.ROTATION_INTERVAL_SECONDS", 0)
    supervisor = Supervisor()
    log, older = tmp_path / "api.log", tmp_path / "api.log.1"
    child = Child("API", ["/bin/sh", "-c", TALKATIVE], log, grace_seconds=0.1)
    supervisor.start(child)
    try:
        rotations: set[str] = set()
        while len(rotations) < 3:
            supervisor.check_children()
            if older.exists():
                rotations.add(older.read_text().partition("\n")[0])
            time.sleep(0.01)
        assert re.fullmatch(r"(line \d+\n)+", older.read_text())
        while not log.read_text():
            time.sleep(0.01)
        assert number_of(log) > number_of(older)
        assert child.read_log_tail().startswith("line ")
    finally:
        child.kill()


def number_of(log: Path) -> int:
    """The number of the first line."""
    return int(log.read_text().split()[1])


def watch_for(supervisor: Supervisor, seconds: float) -> None:
    """Watch the children, as `up` does while it serves."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        supervisor.check_children()
        time.sleep(0.02)


STUBBORN = "trap '' TERM; sleep 600 & setsid sleep 600 & echo up; while true; do sleep 0.1; done"
PARENT = f"""
import sys, time
from pathlib import Path
from cli.supervision.child import Child
from cli.supervision.orphans import adopt_orphans
from cli.supervision.stop_request import StopRequest
from cli.supervision.supervisor import Supervisor
stop, log = StopRequest(), Path(sys.argv[1])
adopt_orphans()
supervisor = Supervisor()
supervisor.start(Child("stubborn", ["/bin/sh", "-c", {STUBBORN!r}], log, grace_seconds=1))
while "up" not in log.read_text():
    time.sleep(0.01)
print("up", flush=True)
while not stop.wait(0.05):
    supervisor.check_children()
supervisor.stop(stop)
"""


@pytest.fixture
def parent(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that supervises a child that ignores SIGTERM and has started two more, one in another session."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "child.log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == "up\n"
    return process


def test_stop_ends_whatever_ignores_it_and_all_that_it_started(parent: subprocess.Popen[str]) -> None:
    family = descendants(parent.pid)
    assert len(family) >= 3
    parent.terminate()
    assert parent.wait(15) == 0
    assert not alive(family)


def test_a_child_dies_with_a_parent_that_is_killed(parent: subprocess.Popen[str]) -> None:
    # A process that it has forked carries its command line until it is a sleeper; the shell itself came first.
    child = min(pid for pid in descendants(parent.pid) if b"trap" in Path(f"/proc/{pid}/cmdline").read_bytes())
    others = descendants(parent.pid) - {child}
    parent.kill()
    parent.wait()
    assert not wait_until_gone({child})
    for pid in alive(others):  # the sleeping processes of the test, which are not tied to a parent
        subprocess.run(["kill", "-9", str(pid)], check=False)


ADOPTER = """
import sys
from pathlib import Path
from cli.supervision.child import Child
from cli.supervision.orphans import adopt_orphans, kill_orphans
from cli.supervision.supervisor import Supervisor
adopt_orphans()
supervisor = Supervisor()
family = "(sleep 0.1 & echo $! ) ; exec sleep 600"
supervisor.start(Child("family", ["/bin/sh", "-c", family], Path(sys.argv[1]), grace_seconds=1))
for _ in sys.stdin:
    supervisor.check_children()
    print("checked", flush=True)
kill_orphans()
"""


def test_an_adopted_process_that_ends_leaves_no_zombie(tmp_path: Path) -> None:
    """Fork servers and runners are adopted when their worker crashes."""
    log = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", ADOPTER, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as adopter:
        assert adopter.stdin
        assert adopter.stdout
        for _ in range(500):
            adopter.stdin.write("check\n")
            adopter.stdin.flush()
            assert adopter.stdout.readline() == "checked\n"
            if (orphan := log.read_text().strip()) and not Path(f"/proc/{orphan}").exists():
                break
            time.sleep(0.02)
        else:
            raise AssertionError("the orphan is still there")
        adopter.stdin.close()
        assert adopter.wait(20) == 0
