"""`baichuan up`: start all processes of the service, and stop them again."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from baichuan_client.endpoint import Endpoint
from cli.deployment_settings import read_deployment_settings
from cli.endpoint import load_saved_endpoint, save_endpoint
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import print_message, print_text
from cli.supervision.child import Child
from cli.supervision.embedded_redis import start_redis
from cli.supervision.first_steps import format_first_steps
from cli.supervision.home_lock import HomeLock
from cli.supervision.key import prepare_database_and_key
from cli.supervision.orphans import adopt_orphans
from cli.supervision.ports import open_listening_socket
from cli.supervision.stop_request import StopRequest
from cli.supervision.supervisor import Supervisor
from jobs.settings import Settings

READY_TIMEOUT_SECONDS = 60.0
POLL_INTERVAL_SECONDS = 0.1
HEALTH_TIMEOUT_SECONDS = 0.5
RESPONSE_TIMEOUT_SECONDS = 10.0
COMMAND_GRACE_SECONDS = 1.0
WILDCARD_TO_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - only compared, not listened on


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `up`; a command runs once the service is ready, and everything stops when the command ends."""

    host: str = "127.0.0.1"
    port: int | None = None
    worker: bool = True
    command: Sequence[str] = ()


def up(options: UpOptions) -> int:
    """Serve until a signal arrives or the command ends; return the exit code.

    Raises:
        CommandError: the service cannot be started, or one of its processes keeps dying.
    """
    settings = read_deployment_settings()
    home = settings.home.resolve()
    with HomeLock(home):
        stop = StopRequest()
        adopt_orphans()
        supervisor = Supervisor()
        try:
            return _run_service(options, settings.model_copy(update={"home": home}), supervisor, stop)
        finally:
            if not options.command:
                print_message("stopping")
            supervisor.stop(stop)


def _run_service(options: UpOptions, settings: Settings, supervisor: Supervisor, stop: StopRequest) -> int:
    with open_listening_socket(options.host, options.port) as listener:
        if not settings.redis_url:
            supervisor.watch(start_redis(settings.home))
        known = load_saved_endpoint(settings.home)
        given = os.environ.get("BAICHUAN_API_KEY") or None
        api_key = prepare_database_and_key(settings, known.api_key if known else None, given)
        port = listener.getsockname()[1]
        endpoint = Endpoint(f"http://{WILDCARD_TO_LOOPBACK.get(options.host, options.host)}:{port}", api_key)
        for child in _make_children(options, settings.home, listener):
            if not stop:
                supervisor.start(child)
        try:
            ready = _wait_until_ready(endpoint, supervisor, stop)
        finally:
            save_endpoint(settings.home, endpoint)  # save a new key even if the service does not become ready
        if not ready:
            return ExitCode.INTERRUPTED
        if options.command:
            return _run_command(options.command, endpoint, supervisor, stop)
        print_text(format_first_steps(endpoint, settings.home))
        while not stop.wait(POLL_INTERVAL_SECONDS):
            supervisor.check_children()
        return ExitCode.OK


def _make_children(options: UpOptions, home: Path, listener: socket.socket) -> list[Child]:
    """Return the Python processes in start order; they are stopped in reverse order, within 15 s in total."""
    environment = {"BAICHUAN_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    api = {"BAICHUAN_LISTEN_FD": str(listener.fileno()), **_limit_seconds("BAICHUAN_SHUTDOWN_SECONDS", 2)}
    inherited = (listener.fileno(),)
    children = [
        Child(
            "API", [*get_python_command(), "api"], home / "logs/api.log", 3.0, environment | api, inherited=inherited
        ),
        Child("dispatcher", [*get_python_command(), "jobs.dispatcher"], home / "logs/dispatcher.log", 1.5, environment),
    ]
    if options.worker:
        drain = _limit_seconds("BAICHUAN_WORKER_DRAIN_SECONDS", 8)
        children.append(
            Child("worker", [*get_python_command(), "workers"], home / "logs/worker.log", 9.0, environment | drain)
        )
    return children


def _limit_seconds(variable: str, seconds: int) -> dict[str, str]:
    """Return an environment variable and its value, capped at `seconds`, which is also the default.

    A value that is not a finite number is left unchanged, so that the child's error message names it.
    """
    given = os.environ.get(variable, str(seconds))
    try:
        is_longer = seconds < float(given) < math.inf
    except ValueError:
        is_longer = False
    return {variable: str(seconds) if is_longer else given}


def get_python_command() -> list[str]:
    """Return the command prefix that runs our modules, ignoring folders of the same name in the current directory."""
    return [sys.executable, "-P", "-m"]


def _wait_until_ready(endpoint: Endpoint, supervisor: Supervisor, stop: StopRequest) -> bool:
    """Wait for the API to become ready; return False if a stop is requested first."""
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    with httpx.Client(base_url=endpoint.url, trust_env=False) as client:
        while not stop.wait(POLL_INTERVAL_SECONDS):
            supervisor.check_children()
            if _is_ready(client):
                return True
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the API is not ready after {READY_TIMEOUT_SECONDS:.0f} s\n{supervisor.format_log_tails()}"
                )
    return False


def _is_ready(client: httpx.Client) -> bool:
    """Return whether the API is ready; the first timeout is short, because the socket listens before the API runs."""
    try:
        client.get("/healthz", timeout=HEALTH_TIMEOUT_SECONDS)
        answer = client.get("/readyz", timeout=RESPONSE_TIMEOUT_SECONDS)
    except httpx.TransportError:
        return False
    if answer.status_code != httpx.codes.OK:
        return False
    _warn_about_redis(answer.json().get("redis"))
    return True


def _warn_about_redis(state: str) -> None:
    if state != "ok":
        print_message(f"Redis is {state}: jobs are accepted and kept, and start once Redis responds")


def _run_command(command: Sequence[str], endpoint: Endpoint, supervisor: Supervisor, stop: StopRequest) -> int:
    """Run the user's command while the service runs, and return its exit code."""
    environment = {**os.environ, "BAICHUAN_URL": endpoint.url, "BAICHUAN_API_KEY": endpoint.api_key}
    try:
        process = subprocess.Popen(command, env=environment)  # noqa: S603 - the user's own command
    except OSError as error:
        raise CommandError(f"cannot run {command[0]}: {error.strerror}", ExitCode.USAGE) from error
    while process.poll() is None and not stop.wait(POLL_INTERVAL_SECONDS):
        supervisor.check_children(process.pid)
    code = process.poll()
    if code is None:
        _stop_command(process)
        return ExitCode.INTERRUPTED
    return code if code >= 0 else 128 - code


def _stop_command(process: subprocess.Popen[bytes]) -> None:
    """Wait for the command to exit, because Ctrl-C may have reached it; then terminate it, and finally kill it."""
    for ask in (None, signal.SIGTERM, signal.SIGKILL):
        if ask:
            process.send_signal(ask)
        try:
            process.wait(COMMAND_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return
