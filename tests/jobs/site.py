"""Jobs whose attempts write real files, and everything that can happen to them."""

from pathlib import Path
from typing import Any

import obstore
import sqlalchemy as sa

from jobs.artifacts import ArtifactStore, DirectoryStore, ObjectStore, Workspace, describe_files
from jobs.database.tables import Deletion, Job
from jobs.maintenance import BulkOperationRunner, Cleaner, reap_overdue_attempts
from jobs.records import JobFilter, JobRecord
from jobs.repository import allocations
from jobs.service import bulk, deletions, files
from jobs.service import jobs as service
from jobs.service.attempts import ProducedModel
from jobs.service.jobs import JobKey
from jobs.state import Event, JobState
from tests.jobs.conftest import DETAILS, Deployment
from tests.jobs.pool import hold, start_on

DAY_MS = 24 * 3600 * 1000
MODEL = ProducedModel("model", "checkpoint", DETAILS)


def has_files(path: Path) -> bool:
    return any(each.is_file() for each in (path, *path.rglob("*")))


class Site:
    """A deployment with a store, and the actions of dispatcher, workers, users and the leader."""

    def __init__(self, deployment: Deployment, store: ArtifactStore) -> None:
        self.deployment = deployment
        self.database = deployment.database
        self.settings = deployment.settings
        self.project_id = deployment.project_id
        self.store = store

    def start(self, job_id: str) -> str:
        """Begin an attempt that writes output and resume points."""
        with self.database.writing() as connection:
            attempt_id = start_on(connection, job_id, "w1", self.settings)
        self.write(job_id, attempt_id)
        return attempt_id

    def write(self, job_id: str, attempt_id: str) -> None:
        """Write files like a runner."""
        space = Workspace(job_id, attempt_id)
        model = self.store.open_workspace(space.output) / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_bytes(b"{}")
        (model.parent / "report.json").write_bytes(b"{}")
        (self.store.open_workspace(space.checkpoints) / "state").write_bytes(b"1")

    def succeed(self, job_id: str, attempt_id: str) -> None:
        key = Workspace(job_id, attempt_id).output
        stored = describe_files(self.store.open_workspace(key))
        self.store.publish(key)
        with self.database.writing() as connection:
            assert hold(connection, attempt_id, "w1", self.settings).succeed({"ok": True}, stored, MODEL)

    def make_model(self, name: str, **spec: object) -> JobRecord:
        """A quantize job that has succeeded and made the model `name`."""
        job = self.deployment.submit(output_model=name, **spec)
        self.succeed(job.id, self.start(job.id))
        return job

    def end(self, attempt_id: str, event: Event) -> JobState:
        with self.database.writing() as connection:
            return hold(connection, attempt_id, "w1", self.settings).end(event, {"code": "x", "message": "y"})

    def lose(self, attempt_id: str) -> None:
        with self.database.writing() as connection:
            allocations.update(connection, attempt_id, {"deadline": 1})
        reap_overdue_attempts(self.database, self.settings)

    def cancel(self, job_id: str) -> None:
        with self.database.writing() as connection:
            service.cancel(connection, JobKey(self.project_id, job_id), self.settings)

    def retry(self, job_id: str) -> None:
        with self.database.writing() as connection:
            service.retry(connection, JobKey(self.project_id, job_id), self.settings)

    def delete(self, job_id: str) -> None:
        with self.database.writing() as connection:
            deletions.delete_job(connection, JobKey(self.project_id, job_id), self.settings)

    def clean(self, *, all_times: bool = False) -> None:
        """Process pending deletions like the leader; with `all_times`, those that become due later too."""
        cleaner = Cleaner(self.database, self.store, self.settings)
        while True:
            if all_times:
                self.execute(sa.update(Deletion).values(not_before=0))
            if not cleaner.clean():
                return

    def execute(self, statement: sa.Executable) -> None:
        with self.database.writing() as connection:
            connection.execute(statement)

    def age(self, days: float) -> None:
        """Move the end of all jobs into the past."""
        self.execute(sa.update(Job).values(finished_at=Job.finished_at - int(days * DAY_MS)))

    def exists(self, key: str) -> bool:
        """Whether any file is at this key or below it, in the store itself or on this machine."""
        if isinstance(self.store, DirectoryStore):
            return has_files(self.store.root / key)
        assert isinstance(self.store, ObjectStore)
        if any(has_files(self.store._cache / folder / key) for folder in ("work", "fetched")):
            return True
        names = [entry["path"] for batch in obstore.list(self.store._backend) for entry in batch]
        return any(f"{name}/".startswith(f"{key}/") for name in names)

    def left(self, job_id: str, attempt_id: str) -> tuple[bool, bool]:
        """Whether the output and the resume points of an attempt are still there."""
        space = Workspace(job_id, attempt_id)
        return self.exists(space.output), self.exists(space.checkpoints)

    def records(self) -> int:
        with self.database.reading() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(Deletion)).scalar_one()

    def state(self, job_id: str) -> JobState:
        with self.database.reading() as connection:
            return service.get(connection, JobKey(self.project_id, job_id)).state


def add_file(site: Site, name: str, lifetime_seconds: int | None = None) -> str:
    source = site.store.open_scratch_folder() / name
    source.write_bytes(b"{}")
    record = files.build_file_record(site.project_id, name, "prompts", 2, "0" * 64)
    with site.database.writing() as connection:
        files.reserve_file(connection, record)
    site.store.put(source, record.key)
    with site.database.writing() as connection:
        files.add(connection, record, lifetime_seconds=lifetime_seconds)
    return record.id


def delete_all(site: Site, **wanted: Any) -> tuple[int, int, int]:
    """Delete in bulk as the leader does; return how many jobs matched, were deleted and were kept."""
    chosen = JobFilter(**wanted)
    with site.database.writing() as connection:
        matched = bulk.count(connection, site.project_id, "delete", chosen)
        operation = bulk.record_operation(connection, site.project_id, "delete", chosen, {}, matched)
    BulkOperationRunner(site.database, site.settings).run_until_done()
    with site.database.reading() as connection:
        done = bulk.get(connection, site.project_id, operation.id)
    assert done.finished_at is not None
    return done.matched, done.changed, done.failed
