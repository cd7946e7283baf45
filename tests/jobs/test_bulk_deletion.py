"""Bulk deletion of the jobs that match a filter."""

from typing import Any

import pytest
import sqlalchemy as sa

from jobs.artifacts import ArtifactStore
from jobs.database.tables import Model
from jobs.errors import NotFoundError
from jobs.records import JobFilter
from jobs.service import bulk
from jobs.state import JobState
from tests.jobs.conftest import Deployment
from tests.jobs.site import Site, delete_all


@pytest.fixture
def site(deployment: Deployment, store: ArtifactStore) -> Site:
    return Site(deployment, store)


def preview(site: Site, **wanted: Any) -> tuple[int, int]:
    with site.database.reading() as connection:
        found = bulk.preview(connection, site.project_id, "delete", JobFilter(**wanted))
    return found.matched, found.in_use


def test_bulk_deletion_takes_matching_final_jobs_that_nothing_uses(site: Site) -> None:
    used, unused = site.make_model("used"), site.make_model("unused")
    running = site.deployment.submit(model="used")
    labelled = site.deployment.submit(labels={"a": "b"})
    site.cancel(labelled.id)
    assert preview(site, states=["succeeded"]) == (2, 1)
    assert site.state(unused.id) is JobState.SUCCEEDED
    assert delete_all(site, label=("a", "b")) == (1, 1, 0)
    assert delete_all(site, states=["succeeded"]) == (2, 1, 1)
    site.clean(all_times=True)
    for gone in (unused, labelled):
        with pytest.raises(NotFoundError):
            site.state(gone.id)
        assert not site.exists(f"jobs/{gone.id}")
    assert (site.state(used.id), site.state(running.id)) == (JobState.SUCCEEDED, JobState.QUEUED)
    assert site.exists(f"jobs/{used.id}")


def test_a_chain_of_models_is_deleted_together(site: Site) -> None:
    first = site.make_model("first")
    second = site.make_model("second")
    with site.database.writing() as connection:
        connection.execute(sa.update(Model).where(Model.job_id == second.id).values(base="first"))
    assert preview(site) == (2, 0)
    site.deployment.submit(model="second")
    assert delete_all(site) == (2, 0, 2)
    assert site.state(first.id) is JobState.SUCCEEDED
