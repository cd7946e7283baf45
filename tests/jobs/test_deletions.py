"""Deletion records and uses: nothing that is needed is deleted, and everything else is."""

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs.artifacts import ArtifactStore, DirectoryStore
from jobs.database.tables import Deletion, File
from jobs.errors import InUseError, NotFoundError
from jobs.maintenance import Cleaner, RetentionPass
from jobs.repository import models as model_rows
from jobs.service import attempts, deletions, files, models
from jobs.service import jobs as service
from jobs.service.claims import Claim
from jobs.service.jobs import JobKey
from jobs.state import Event, JobState
from tests.jobs.conftest import Deployment
from tests.jobs.pool import dispatch_to
from tests.jobs.site import Site, add_file


@pytest.fixture
def site(deployment: Deployment, store: ArtifactStore) -> Site:
    return Site(deployment, store)


def test_an_attempt_that_may_be_repeated_leaves_only_resume_points(site: Site) -> None:
    for event in (Event.STUMBLE, Event.RELEASE):
        job = site.deployment.submit()
        attempt_id = site.start(job.id)
        assert site.end(attempt_id, event) is JobState.QUEUED
        site.clean(all_times=True)
        assert site.left(job.id, attempt_id) == (False, True)


def test_files_of_a_lost_attempt_are_deleted_when_its_job_is_cancelled(site: Site) -> None:
    job = site.deployment.submit()
    lost = site.start(job.id)
    site.lose(lost)
    site.clean()
    assert site.left(job.id, lost) == (False, True)
    site.write(job.id, lost)  # a zombie, which has not noticed
    site.cancel(job.id)
    site.clean()
    assert site.left(job.id, lost) == (False, True)  # resume points are kept for a retry
    site.write(job.id, lost)
    site.clean()
    assert site.left(job.id, lost) == (True, True)
    site.clean(all_times=True)  # the second pass, once its lease has surely passed
    assert site.left(job.id, lost) == (False, False)
    assert site.records() == 0


def test_success_keeps_the_output_of_the_attempt_that_succeeded_alone(site: Site) -> None:
    job = site.deployment.submit()
    lost = site.start(job.id)
    site.lose(lost)
    last = site.start(job.id)
    site.succeed(job.id, last)
    site.clean(all_times=True)
    assert site.left(job.id, lost) == (False, False)
    assert site.left(job.id, last) == (True, False)


def test_resume_points_of_a_failed_job_are_kept_for_a_retry_and_then_deleted(site: Site) -> None:
    job = site.deployment.submit(max_attempts=1)
    failed = site.start(job.id)
    assert site.end(failed, Event.STUMBLE) is JobState.FAILED
    site.clean()
    assert site.left(job.id, failed) == (False, True)
    site.retry(job.id)
    site.clean(all_times=True)
    assert site.left(job.id, failed) == (False, True)
    with site.database.writing() as connection:
        attempt_id = dispatch_to(connection, job.id, "w1", site.settings)
        claim = attempts.claim(connection, str(attempt_id), "w1", site.settings)
        assert isinstance(claim, Claim)
        assert claim.earlier_attempts == [failed]
    site.end(str(attempt_id), Event.STUMBLE)
    site.clean(all_times=True)
    assert site.left(job.id, failed) == (False, False)


def test_an_attempt_does_not_resume_from_files_being_deleted(site: Site) -> None:
    job = site.deployment.submit()
    stopped = site.start(job.id)
    site.cancel(job.id)
    site.end(stopped, Event.STOP)
    with site.database.writing() as connection:
        connection.execute(sa.update(Deletion).values(attempts=1))  # the leader has begun
    site.retry(job.id)
    with site.database.writing() as connection:
        attempt_id = dispatch_to(connection, job.id, "w1", site.settings)
        claim = attempts.claim(connection, str(attempt_id), "w1", site.settings)
    assert isinstance(claim, Claim)
    assert claim.earlier_attempts == []
    site.write(job.id, str(attempt_id))
    site.clean(all_times=True)
    assert site.left(job.id, str(attempt_id)) == (True, True)


def test_a_cancelled_job_that_is_retried_continues(site: Site) -> None:
    job = site.deployment.submit()
    stopped = site.start(job.id)
    site.cancel(job.id)
    site.end(stopped, Event.STOP)
    site.clean()
    site.retry(job.id)
    with site.database.writing() as connection:
        attempt_id = dispatch_to(connection, job.id, "w1", site.settings)
        claim = attempts.claim(connection, str(attempt_id), "w1", site.settings)
    assert isinstance(claim, Claim)
    assert claim.earlier_attempts == [stopped]
    assert site.left(job.id, stopped) == (False, True)


def test_resume_points_can_be_kept_forever(deployment: Deployment, tmp_path: Path) -> None:
    deployment.settings = deployment.settings.model_copy(update={"keep_resume_points_days": 0})
    site = Site(deployment, DirectoryStore(tmp_path / "kept"))
    job = deployment.submit(max_attempts=1)
    failed = site.start(job.id)
    site.end(failed, Event.FAIL)
    site.clean(all_times=True)
    assert site.left(job.id, failed) == (False, True)


def test_a_crash_between_the_commit_and_the_store_is_repaired(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    job = site.make_model("small")
    site.delete(job.id)
    cleaner = Cleaner(site.database, site.store, site.settings)

    class Killed(BaseException):
        pass

    def die(_key: str) -> None:
        raise Killed

    with monkeypatch.context() as crash:
        crash.setattr(site.store, "delete", die)
        with pytest.raises(Killed):
            cleaner.clean()
    assert site.exists(f"jobs/{job.id}")
    assert cleaner.clean() == 0  # the records are another leader's until their time is over
    site.clean(all_times=True)
    assert not site.exists(f"jobs/{job.id}")
    assert site.records() == 0


def test_deletions_from_a_failing_store_are_retried_with_increasing_delay(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = site.make_model("small")
    site.delete(job.id)

    def refuse(_key: str) -> None:
        raise OSError("the store is away")

    waits = []
    with monkeypatch.context() as outage:
        outage.setattr(site.store, "delete", refuse)
        for _ in range(3):
            site.execute(sa.update(Deletion).values(not_before=0))
            assert Cleaner(site.database, site.store, site.settings).clean()
            with site.database.reading() as connection:
                waits.append(connection.execute(sa.select(sa.func.min(Deletion.not_before))).scalar_one())
    assert waits[1] - waits[0] >= 5_000
    assert waits[2] - waits[1] >= 2 * 5_000
    site.clean(all_times=True)
    assert not site.exists(f"jobs/{job.id}")


def test_a_job_is_deleted_with_everything_that_belongs_to_it(site: Site) -> None:
    job = site.make_model("small", labels={"a": "b"})
    site.delete(job.id)
    with site.database.reading() as connection:
        for table in ("jobs", "attempts", "allocations", "events", "artifacts", "job_labels"):
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() == 0, table  # noqa: S608
        with pytest.raises(NotFoundError):
            models.get(connection, site.project_id, "small")
    site.clean(all_times=True)
    assert not site.exists(f"jobs/{job.id}")


def test_a_job_or_model_in_use_is_kept_and_the_error_names_its_users(site: Site) -> None:
    base = site.make_model("small")
    user = site.deployment.submit(kind="generate", model="small", prompts=["a"])
    with pytest.raises(InUseError, match=user.id):
        site.delete(base.id)
    with pytest.raises(InUseError, match=user.id), site.database.writing() as connection:
        deletions.delete_model(connection, site.project_id, "small")
    with pytest.raises(InUseError, match="cancel it first"):
        site.delete(user.id)
    site.cancel(user.id)
    derived = site.deployment.submit(kind="convert", model="small", target="gguf", output_model="derived")
    site.cancel(derived.id)
    site.delete(base.id)


def test_the_base_of_another_model_is_kept(site: Site) -> None:
    base = site.make_model("small")
    with site.database.writing() as connection:
        record = model_rows.get_many(connection, site.project_id, ["base"])["base"]
        assert model_rows.add(connection, replace(record, id="derived", base="small"))
    with pytest.raises(InUseError, match="'derived'"):
        site.delete(base.id)
    with site.database.writing() as connection:
        deletions.delete_model(connection, site.project_id, "derived")
    site.delete(base.id)


def test_deleting_a_model_deletes_its_files_and_no_other_artifact(site: Site) -> None:
    job = site.make_model("small")
    key = JobKey(site.project_id, job.id)
    with pytest.raises(InUseError, match="small"), site.database.writing() as connection:
        deletions.delete_artifact(connection, key, "model/config.json")
    with site.database.writing() as connection:
        deletions.delete_model(connection, site.project_id, "small")
        left = service.list_artifacts(connection, key, after=None, limit=10)
    assert [artifact.path for artifact in left] == ["report.json"]
    site.clean(all_times=True)
    prefix = left[0].key.removesuffix("/report.json")
    assert (site.exists(f"{prefix}/model"), site.exists(left[0].key)) == (False, True)
    with site.database.writing() as connection:
        deletions.delete_artifact(connection, key, "report.json")
    site.clean(all_times=True)
    assert not site.exists(left[0].key)


@pytest.mark.parametrize("kind", ["generate", "finetune"])
def test_files_in_use_are_kept_even_if_they_expire(site: Site, kind: str) -> None:
    file_id = add_file(site, "prompts.jsonl", 3600)
    other = add_file(site, "other.jsonl", 3600)
    named = {"input_file": file_id} if kind == "generate" else {"training_files": [{"file": file_id, "weight": 2.0}]}
    job = site.deployment.submit(kind=kind, **named)
    with pytest.raises(InUseError, match=job.id), site.database.writing() as connection:
        deletions.delete_file(connection, site.project_id, file_id)
    site.execute(sa.update(File).values(expires_at=1))
    RetentionPass(site.database, site.settings).expire()
    site.clean(all_times=True)
    assert (site.exists(f"files/{file_id}"), site.exists(f"files/{other}")) == (True, False)
    site.cancel(job.id)
    RetentionPass(site.database, site.settings).expire()
    site.clean(all_times=True)
    assert not site.exists(f"files/{file_id}")
    assert site.records() == 0


def test_bytes_of_an_upload_that_never_got_its_row_are_deleted(site: Site) -> None:
    source = site.store.open_scratch_folder() / "x"
    source.write_bytes(b"{}")
    record = files.build_file_record(site.project_id, "x", "prompts", 2, "0" * 64)
    with site.database.writing() as connection:
        files.reserve_file(connection, record)
    site.store.put(source, record.key)
    site.clean()
    assert site.exists(record.key)  # it may still come
    site.clean(all_times=True)
    assert not site.exists(record.key)
