"""`python -m jobs.health dispatcher|worker`: exit 0 if that part is alive; for container health checks."""

import socket
import sys

from jobs.database import Database, now_ms
from jobs.repository import workers
from jobs.service.workers import alive
from jobs.settings import Settings, read_settings_or_exit


def dispatcher_alive(database: Database) -> bool:
    """Whether a dispatcher leads, here or on another machine."""
    with database.reading() as connection:
        return workers.lease_holder(connection, "dispatcher", now=now_ms(connection)) is not None


def worker_alive(database: Database, settings: Settings, hostname: str) -> bool:
    """Whether a worker of this machine reported within the last few heartbeats."""
    with database.reading() as connection:
        return any(worker.hostname == hostname for worker in alive(connection, settings))


def main(arguments: list[str]) -> int:
    """Check the part that is named; returns the exit code."""
    settings = read_settings_or_exit(Settings)
    database = Database(settings.database)
    match arguments:
        case ["dispatcher"]:
            healthy = dispatcher_alive(database)
        case ["worker"]:
            healthy = worker_alive(database, settings, socket.gethostname())
        case _:
            sys.stderr.write("usage: python -m jobs.health dispatcher|worker\n")
            return 2
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
