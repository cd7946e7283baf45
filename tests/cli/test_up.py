"""`baichuan up` as real processes: start, Ctrl-C, kill -9, second start."""

import json
import os
import re
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.shell import BAICHUAN, Shell, Up, alive, wait_until_gone


def start(ups: list[Up], shell: Shell, *arguments: str) -> tuple[Up, str]:
    """An `up` that serves, and its address."""
    up = Up(shell, "--no-worker", *arguments)
    ups.append(up)
    return up, up.wait_until_ready()


def saved(up: Up) -> dict[str, str]:
    """The file that it wrote for clients."""
    content: dict[str, str] = json.loads((up.home / "client.json").read_text())
    return content


def test_a_whole_life(shell: Shell, service: Shell, ups: list[Up]) -> None:
    """One test for many properties, because every start takes seconds."""
    taken = json.loads((service.directory / ".baichuan/client.json").read_text())["url"]
    up, url = start(ups, shell)
    assert url != taken  # the next free port
    assert httpx.get(f"{url}/docs").status_code == 200
    key = saved(up)["api_key"]
    assert key in up.printed()
    link = re.search(r"Dashboard: (\S+)/dashboard/sign-in#link=(\S+)", up.printed())
    assert link is not None
    assert link[1] == url
    assert httpx.post(f"{url}/v1/session", json={"link": link[2]}).status_code == 201
    for secret in ("client.json", "redis/url"):
        assert (up.home / secret).stat().st_mode & 0o777 == 0o600
    assert up.home.stat().st_mode & 0o777 == 0o700
    made = json.loads(shell("keys", "create", "second", "--json").out)

    kill_dispatcher(up)
    assert "the dispatcher exited (signal 9); it will be restarted" in up.printed()
    assert httpx.get(f"{url}/healthz").status_code == 200
    family = up.family()
    assert up.interrupt() == 0
    assert not alive(family)

    up, url = start(ups, shell)
    assert saved(up) == {"url": url, "api_key": key}
    assert made["id"] in {item["id"] for item in json.loads(shell("keys", "--json").out)["data"]}
    family = up.family()
    up.process.kill()
    up.process.wait()
    assert not wait_until_gone(family)

    (up.home / "client.json").unlink()
    done = shell.process("up", "--no-worker", "--", BAICHUAN, "keys", "--json")  # the lock is free
    assert len(json.loads(done.out)["data"]) == 3, done.err
    assert saved(up)["api_key"] != key


def kill_dispatcher(up: Up) -> None:
    """Kill the dispatcher, and wait until another one is running."""
    dispatcher = next(pid for pid in up.family() if b"jobs.dispatcher" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(dispatcher, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and len(alive(up.family()) - {dispatcher}) < 3:
        time.sleep(0.1)
    assert len(alive(up.family())) == 3


def test_a_command_beside_the_service_without_any_installed_redis(shell: Shell) -> None:
    tools = shell.directory / "tools"
    tools.mkdir()
    for name in ("sh", "curl", "sleep"):
        (tools / name).symlink_to(next(Path(p, name) for p in ("/usr/bin", "/bin") if Path(p, name).exists()))
    script = 'curl -fsS "$BAICHUAN_URL/readyz"; sleep 600 >/dev/null & echo; echo "$!"; exit 7'
    done = shell.process("up", "--no-worker", "--", "sh", "-c", script, PATH=str(tools))
    assert done.code == 7, done.err
    ready, left_running = done.out.splitlines()
    assert json.loads(ready)["redis"] == "ok"
    assert not alive({int(left_running)})
    assert "valkey" in (shell.directory / ".baichuan/logs/redis.log").read_text().lower()


def test_uses_a_given_redis_and_ends_after_sigterm_alone(shell: Shell, service: Shell, ups: list[Up]) -> None:
    url = (service.directory / ".baichuan/redis/url").read_text().strip()
    up = Up(shell, "--no-worker", REDIS_URL=url)
    ups.append(up)
    assert httpx.get(f"{up.wait_until_ready()}/readyz").json()["redis"] == "ok"
    family = up.family()
    assert len(family) == 2
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(15) == 0
    assert not alive(family)


def test_a_service_that_cannot_start_ends_with_the_reason(shell: Shell) -> None:
    done = shell.process("up", "--no-worker", BAICHUAN_MAX_BODY_BYTES="many")
    assert done.code == 2
    assert "error: the API exited (exit code 2); restarting it would not help" in done.err
    assert "BAICHUAN_MAX_BODY_BYTES='many': Input should be a valid integer" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("command", "variable", "value", "reason"),
    [
        ("worker", "BAICHUAN_WORKER_KINDS", "dream", "unknown kinds dream; the known kinds are generate"),
        ("worker", "BAICHUAN_LEASE_SECONDS", "soon", "valid number"),
        ("dispatcher", "BAICHUAN_LEASE_SECONDS", "-1", "greater than 0"),
        ("dispatcher", "REDIS_URL", "localhost:6379", "must begin with redis://"),
        ("dispatcher", "REDIS_URL", "redis://127.0.0.1:abc", "Port could not be cast"),
        ("dispatcher", "ARTIFACT_ROOT", "ftp://x", "must be a directory, or a URL such as s3://"),
        ("dispatcher", "ARTIFACT_ROOT", "s3://", "must be a directory, or a URL such as s3://"),
        ("init", "DATABASE_URL", "mysql://root:secret@db/jobs", "must begin with postgresql:// or sqlite:///"),
        ("up", "BAICHUAN_LEASE_SECONDS", "", "valid number"),
        ("up", "BAICHUAN_LEASE_SECONDS", "inf", "finite number"),
        ("init", "BAICHUAN_KEEP_JOBS_DAYS", "nan", "finite number"),
        ("dispatcher", "BAICHUAN_POLL_SECONDS", "-inf", "finite number"),
        ("worker", "BAICHUAN_WORKER_DRAIN_SECONDS", "inf", "finite number"),
        ("worker", "BAICHUAN_WORKER_KEEP_SECONDS", "nan", "finite number"),
    ],
)
def test_an_invalid_setting_is_one_line_that_names_its_variable(
    shell: Shell, command: str, variable: str, value: str, reason: str
) -> None:
    done = shell.process(command, **{variable: value})
    assert done.code == 2
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("error: correct these environment variables: ")
    assert f"{variable}" in done.err
    assert reason in done.err
    assert "secret" not in done.err


@pytest.mark.parametrize(
    ("variable", "value"), [("BAICHUAN_SHUTDOWN_SECONDS", "inf"), ("BAICHUAN_RECEIVE_SECONDS", "nan")]
)
def test_an_invalid_setting_of_the_api_ends_up_with_its_name(shell: Shell, variable: str, value: str) -> None:
    done = shell.process("up", "--no-worker", **{variable: value})
    assert done.code == 2
    assert f"{variable}={value!r}: Input should be a " in done.err


@pytest.mark.slow
def test_up_takes_the_given_key(shell: Shell) -> None:
    keys = [f"bj-{letter * 40}" for letter in "kl"]
    for key in keys:  # the second one joins the first
        done = shell.process("up", "--no-worker", "--", BAICHUAN, "keys", "--json", BAICHUAN_API_KEY=key)
        assert done.code == 0, done.err
        assert json.loads((shell.directory / ".baichuan/client.json").read_text())["api_key"] == key
    assert len(json.loads(done.out)["data"]) == 2
    weak = shell.process("up", "--no-worker", BAICHUAN_API_KEY="secret")
    assert weak.code == 2
    assert "BAICHUAN_API_KEY: an API key must have 24 to 512" in weak.err


def test_printed_lines_work_as_they_are(service: Shell) -> None:
    printed = next(service.directory.glob("up-*.txt")).read_text()
    found = re.search(r'^ +curl -s -H "Authorization: Bearer (\S+)" (\S+)$', printed, re.MULTILINE)
    assert found
    secret, url = found.groups()
    assert httpx.get(url, headers={"Authorization": f"Bearer {secret}"}).json()["object"] == "list"
    assert re.search(r"baichuan models add NAME CHECKPOINT_DIRECTORY$", printed, re.MULTILINE)
    assert re.search(r"baichuan submit generate --model NAME --prompt 'Hello'", printed)


def test_password_of_the_embedded_server_is_on_no_command_line(service: Shell) -> None:
    url = (service.directory / ".baichuan/redis/url").read_text()
    password = re.fullmatch(r"redis://:(\w+)@127\.0\.0\.1:\d+/0\n", url)
    assert password
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert password.group(1) not in (process / "cmdline").read_text(errors="replace")
        except OSError:
            continue


def test_a_second_up_in_the_same_home_is_refused(service: Shell) -> None:
    refused = service.process("up", "--no-worker")
    assert refused.code == 1
    assert re.search(r"`baichuan up` \(process \d+\) is already serving \S+ at http://127\.0\.0\.1:\d+", refused.err)


def test_a_forced_port_that_is_taken_is_refused(shell: Shell, service: Shell) -> None:
    taken = json.loads((service.directory / ".baichuan/client.json").read_text())["url"]
    port = taken.rpartition(":")[2]
    refused = shell.process("up", "--no-worker", "--port", port)
    assert refused.code == 1
    assert f"port {port} on 127.0.0.1 cannot be used: Address already in use" in refused.err


def test_what_cannot_be_used_is_one_readable_line(shell: Shell) -> None:
    down = shell("init", DATABASE_URL="postgresql://127.0.0.1:9/nothing")
    assert down.code == 1
    assert down.err.startswith("error: the database cannot be used: ")
    assert down.err.count("\n") == 1
    wrong = shell("init", BAICHUAN_LEASE_SECONDS="soon")
    assert wrong.code == 2
    assert "BAICHUAN_LEASE_SECONDS='soon'" in wrong.err
    (shell.directory / "file").touch()
    assert "cannot write to" in shell.process("up", "--no-worker", BAICHUAN_HOME="file/home").err


def test_init_makes_the_first_key_once(shell: Shell) -> None:
    first = shell("init")
    assert first.code == 0, first.err
    assert first.out.startswith("bj-")
    again = shell("init")
    assert (again.code, again.out) == (0, "")
    given = shell("init", "--json", BAICHUAN_API_KEY="bj-" + "k" * 40)
    assert json.loads(given.out) == {"api_key": None, "created": True}
    weak = shell("init", BAICHUAN_API_KEY="secret")
    assert weak.code == 2
    assert "BAICHUAN_API_KEY: an API key must have 24 to 512" in weak.err
