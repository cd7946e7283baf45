"""Retention: logs, events, artifacts and jobs expire after their number of days, and by default never."""

import pytest

from jobs.artifacts import ArtifactStore, Workspace
from jobs.errors import NotFoundError
from jobs.maintenance import RetentionPass
from jobs.service import jobs as service
from jobs.service.jobs import JobKey
from jobs.state import JobState
from tests.jobs.conftest import Deployment
from tests.jobs.pool import hold
from tests.jobs.site import Site


@pytest.fixture
def site(deployment: Deployment, store: ArtifactStore) -> Site:
    return Site(deployment, store)


def retain(site: Site, **days: float) -> None:
    RetentionPass(site.database, site.settings.model_copy(update=days)).expire()
    site.clean(all_times=True)


def test_by_default_results_are_kept_forever(site: Site) -> None:
    job = site.make_model("small")
    site.age(3650)
    retain(site)
    with site.database.reading() as connection:
        key = JobKey(site.project_id, job.id)
        assert len(service.list_artifacts(connection, key, after=None, limit=10)) == 2
        assert len(service.list_events(connection, key, after=0, limit=10)) == 4


def test_logs_events_and_artifacts_expire_each_after_its_days(site: Site) -> None:
    job = site.deployment.submit()
    attempt_id = site.start(job.id)
    with site.database.writing() as connection:
        hold(connection, attempt_id, "w1", site.settings).renew({"fraction": 0.5}, [("log", {"lines": ["a"]})])
    site.succeed(job.id, attempt_id)
    site.age(3)
    key = JobKey(site.project_id, job.id)

    def types() -> set[str]:
        with site.database.reading() as connection:
            return {event.type for event in service.list_events(connection, key, after=0, limit=10)}

    retain(site, keep_logs_days=4, keep_events_days=4, keep_artifacts_days=4)
    assert types() == {"state", "log"}
    retain(site, keep_logs_days=2)
    assert types() == {"state"}
    retain(site, keep_events_days=2, keep_artifacts_days=2)
    assert types() == set()
    with site.database.reading() as connection:
        left = service.list_artifacts(connection, key, after=None, limit=10)
    assert [artifact.path for artifact in left] == ["model/config.json"]
    assert not site.exists(f"{Workspace(job.id, attempt_id).output}/report.json")


def test_old_jobs_expire_unless_their_models_are_used(site: Site) -> None:
    used, unused = site.make_model("used"), site.make_model("unused")
    recent = site.deployment.submit(model="used")
    site.age(3)
    site.cancel(recent.id)  # final now, so it keeps the model for as long as it is kept itself
    retain(site, keep_jobs_days=2)
    assert site.state(used.id) is JobState.SUCCEEDED
    with pytest.raises(NotFoundError):
        site.state(unused.id)
    site.age(3)
    for _ in range(2):
        retain(site, keep_jobs_days=2)
    with pytest.raises(NotFoundError):
        site.state(used.id)
    assert not site.exists(f"jobs/{used.id}")
