"""Health check for containers: `python -m jobs.health dispatcher|worker` exits with 0 if that process is alive."""

import socket
import sys
import threading
import time

from sqlalchemy import Connection

from jobs.database import Database, now_ms
from jobs.identifiers import new_id
from jobs.repository import allocations, workers
from jobs.service.workers import list_alive
from jobs.settings import Settings, read_settings_or_exit

PROBE_LEASE = "write probe"  # name of a lease that is written only to test whether the database accepts writes
PROBE_INTERVAL_SECONDS = 1.0


def is_dispatcher_alive(database: Database) -> bool:
    """Whether any dispatcher is the leader, on this machine or another."""
    with database.reading() as connection:
        return workers.get_lease_holder(connection, "dispatcher", now=now_ms(connection)) is not None


def is_worker_alive(database: Database, settings: Settings, hostname: str) -> bool:
    """Whether a worker on this machine has reported within the last few heartbeat intervals."""
    with database.reading() as connection:
        return any(worker.hostname == hostname for worker in list_alive(connection, settings))


def get_unclaimed_seconds(connection: Connection, worker_id: str, settings: Settings) -> float | None:
    """Return the age in seconds of an attempt that this worker should have claimed by now, or None if there is none.

    A worker should claim an attempt within half of the time limit. If several are late, the newest one counts.
    """
    now = now_ms(connection)
    half = int(settings.pickup_seconds * 1000 / 2)
    deadline = allocations.get_latest_unclaimed_deadline(connection, worker_id, until=now + half)
    return None if deadline is None else settings.pickup_seconds - (deadline - now) / 1000


class WriteProbe:
    """A probe that tests whether the database accepts writes; reads succeed even on a full disk or a read-only standby.

    The probe writes at most once per second, because anyone can request it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = new_id("api")
        self._lock = threading.Lock()
        self._good_until = 0.0

    def check(self) -> None:
        """Write and commit one row.

        Raises:
            DBAPIError: the database rejects the write.
        """
        with self._lock:
            if time.monotonic() < self._good_until:
                return
            with self._database.writing() as connection:
                now = now_ms(connection)
                workers.hold_lease(connection, PROBE_LEASE, self._holder, now=now, expires_at=now)
            self._good_until = time.monotonic() + PROBE_INTERVAL_SECONDS


def main(arguments: list[str]) -> int:
    """Check the process named in the arguments; return the exit code."""
    settings = read_settings_or_exit(Settings)
    database = Database(settings.effective_database_url)
    match arguments:
        case ["dispatcher"]:
            healthy = is_dispatcher_alive(database)
        case ["worker"]:
            healthy = is_worker_alive(database, settings, socket.gethostname())
        case _:
            sys.stderr.write("usage: python -m jobs.health dispatcher|worker\n")
            return 2
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
