"""The files that a worker deletes on its own disk."""

from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from jobs.artifacts import ObjectStore, Workspace
from jobs.database import Database
from jobs.database.tables import Job
from jobs.service import jobs as service
from jobs.service.jobs import JobKey
from jobs.settings import Settings
from jobs.state import Event, JobState
from tests.jobs.conftest import Deployment
from tests.jobs.conftest import database as database  # noqa: PLC0414 - a fixture
from tests.jobs.conftest import deployment as deployment  # noqa: PLC0414
from tests.jobs.conftest import s3_endpoint as s3_endpoint  # noqa: PLC0414
from tests.jobs.conftest import s3_store as s3_store  # noqa: PLC0414
from tests.jobs.conftest import settings as settings  # noqa: PLC0414
from tests.jobs.pool import hold, start_on
from workers.tidying import DiskCleaner

pytestmark = pytest.mark.integration


@dataclass
class Machine:
    """A worker's machine with its own workspaces."""

    deployment: Deployment
    store: ObjectStore

    def start(self) -> Workspace:
        """Begin an attempt that writes a resume point."""
        job = self.deployment.submit(max_attempts=1)
        with self.deployment.database.writing() as connection:
            attempt_id = start_on(connection, job.id, "w1", self.deployment.settings)
        space = Workspace(job.id, attempt_id)
        (self.store.open_workspace(space.checkpoints) / "state").write_bytes(b"1")
        return space

    def end(self, space: Workspace, event: Event) -> JobState:
        """End the attempt."""
        with self.deployment.database.writing() as connection:
            return hold(connection, space.attempt_id, "w1", self.deployment.settings).end(event)

    def cancel(self, space: Workspace) -> None:
        """Cancel the job."""
        key = JobKey(self.deployment.project_id, space.job_id)
        with self.deployment.database.writing() as connection:
            service.cancel(connection, key, self.deployment.settings)

    def tidy(self, settings: Settings) -> set[str]:
        """Tidy; return the keys of the workspaces that are left."""
        DiskCleaner(self.deployment.database, self.store, settings).tidy()
        return {space.key for space in self.store.list_workspaces()}


def test_a_worker_keeps_workspaces_only_while_an_attempt_may_resume_from_them(
    deployment: Deployment, database: Database, s3_store: ObjectStore, settings: Settings
) -> None:
    machine = Machine(deployment, s3_store)
    running, released, failed, cancelled = [machine.start() for _ in range(4)]
    assert machine.end(released, Event.RELEASE) is JobState.QUEUED
    assert machine.end(failed, Event.FAIL) is JobState.FAILED
    machine.cancel(cancelled)
    assert machine.end(cancelled, Event.STOP) is JobState.CANCELLED
    kept = {running.key, released.key, failed.key, cancelled.key}
    assert machine.tidy(settings) == kept
    with database.writing() as connection:
        connection.execute(sa.update(Job).values(finished_at=Job.finished_at - 8 * 24 * 3600 * 1000))
    forever = settings.model_copy(update={"keep_resume_points_days": 0})
    assert machine.tidy(forever) == kept
    assert machine.tidy(settings) == {running.key, released.key}
