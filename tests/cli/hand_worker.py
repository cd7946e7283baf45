"""A worker that tests control step by step: it changes the database and the store like real ones, without a model."""

from collections.abc import Mapping
from pathlib import Path

from jobs.artifacts import Workspace, describe_files, open_store
from jobs.database import Database
from jobs.settings import Settings
from jobs.state import Event
from tests.jobs.pool import hold, start_on

WORKER = "wrk-by-hand"


class HandWorker:
    """Works in the deployment of a home directory."""

    def __init__(self, home: Path) -> None:
        self._settings = Settings(home=home)
        self._database = Database(self._settings.effective_database_url)

    def begin(self, job: str) -> str:
        """Take a queued job; returns the attempt's id."""
        with self._database.writing() as connection:
            return start_on(connection, job, WORKER, self._settings)

    def report(self, attempt: str, fraction: float, metrics: Mapping[str, float], *lines: str) -> None:
        """Renew the lease, with progress and lines of output."""
        progress = {"fraction": fraction, "stage": "training", "metrics": dict(metrics)}
        entries = [("log", {"stream": "stdout", "lines": list(lines)})] if lines else []
        with self._database.writing() as connection:
            hold(connection, attempt, WORKER, self._settings).renew(progress, entries)

    def succeed(self, job: str, attempt: str, files: Mapping[str, bytes]) -> None:
        """Publish files, and end the job."""
        store, key = open_store(self._settings), Workspace(job, attempt).output
        folder = store.open_workspace(key)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        store.publish(key)
        stored = describe_files(folder)
        with self._database.writing() as connection:
            hold(connection, attempt, WORKER, self._settings).succeed({}, stored, None)

    def fail(self, attempt: str, code: str, message: str) -> None:
        """End the job with an error."""
        with self._database.writing() as connection:
            hold(connection, attempt, WORKER, self._settings).end(Event.FAIL, {"code": code, "message": message})

    def close(self) -> None:
        """Close the database."""
        self._database.close()
