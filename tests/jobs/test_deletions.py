"""Deletion records, retention and uses: nothing that is needed is deleted, and everything else is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import obstore
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from jobs.artifacts import ArtifactStore, DirectoryStore, ObjectStore, Workspace, describe_files
from jobs.bootstrap import prepare
from jobs.database import Database
from jobs.database.tables import Deletion, File, Job, Model
from jobs.errors import DomainError, InUseError, NotFoundError
from jobs.maintenance import BulkOperations, Cleaner, Retention, reap
from jobs.records import JobFilter, JobRecord, ModelRecord
from jobs.repository import allocations, uses
from jobs.repository import models as model_rows
from jobs.service import attempts, bulk, deletions, files, models
from jobs.service import jobs as service
from jobs.service.attempts import ProducedModel
from jobs.service.claims import Claim
from jobs.service.jobs import JobKey
from jobs.settings import Settings
from jobs.specs import AnySpec
from jobs.state import Event, JobState
from tests.jobs.conftest import DETAILS, Deployment
from tests.jobs.pool import dispatch_to, hold, start_on

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
        model = self.store.workspace(space.output) / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_bytes(b"{}")
        (model.parent / "report.json").write_bytes(b"{}")
        (self.store.workspace(space.checkpoints) / "state").write_bytes(b"1")

    def succeed(self, job_id: str, attempt_id: str) -> None:
        key = Workspace(job_id, attempt_id).output
        stored = describe_files(self.store.workspace(key))
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
        reap(self.database, self.settings)

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


def add_file(site: Site, name: str, lifetime_seconds: int | None = None) -> str:
    source = site.store.scratch() / name
    source.write_bytes(b"{}")
    record = files.new_file(site.project_id, name, "prompts", 2, "0" * 64)
    with site.database.writing() as connection:
        files.expect(connection, record)
    site.store.put(source, record.key)
    with site.database.writing() as connection:
        files.add(connection, record, lifetime_seconds=lifetime_seconds)
    return record.id


@pytest.mark.parametrize("kind", ["generate", "finetune"])
def test_files_in_use_are_kept_even_if_they_expire(site: Site, kind: str) -> None:
    file_id = add_file(site, "prompts.jsonl", 3600)
    other = add_file(site, "other.jsonl", 3600)
    named = {"input_file": file_id} if kind == "generate" else {"training_files": [{"file": file_id, "weight": 2.0}]}
    job = site.deployment.submit(kind=kind, **named)
    with pytest.raises(InUseError, match=job.id), site.database.writing() as connection:
        deletions.delete_file(connection, site.project_id, file_id)
    site.execute(sa.update(File).values(expires_at=1))
    Retention(site.database, site.settings).expire()
    site.clean(all_times=True)
    assert (site.exists(f"files/{file_id}"), site.exists(f"files/{other}")) == (True, False)
    site.cancel(job.id)
    Retention(site.database, site.settings).expire()
    site.clean(all_times=True)
    assert not site.exists(f"files/{file_id}")
    assert site.records() == 0


def test_bytes_of_an_upload_that_never_got_its_row_are_deleted(site: Site) -> None:
    source = site.store.scratch() / "x"
    source.write_bytes(b"{}")
    record = files.new_file(site.project_id, "x", "prompts", 2, "0" * 64)
    with site.database.writing() as connection:
        files.expect(connection, record)
    site.store.put(source, record.key)
    site.clean()
    assert site.exists(record.key)  # it may still come
    site.clean(all_times=True)
    assert not site.exists(record.key)


def preview(site: Site, **wanted: Any) -> tuple[int, int]:
    with site.database.reading() as connection:
        found = bulk.preview(connection, site.project_id, "delete", JobFilter(**wanted))
    return found.matched, found.in_use


def delete_all(site: Site, **wanted: Any) -> tuple[int, int, int]:
    """Delete in bulk as the leader does; return how many jobs matched, were deleted and were kept."""
    chosen = JobFilter(**wanted)
    with site.database.writing() as connection:
        matched = bulk.count(connection, site.project_id, "delete", chosen)
        operation = bulk.request(connection, site.project_id, "delete", chosen, {}, matched)
    BulkOperations(site.database, site.settings).run_until_done()
    with site.database.reading() as connection:
        done = bulk.get(connection, site.project_id, operation.id)
    assert done.finished_at is not None
    return done.matched, done.changed, done.failed


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


def retain(site: Site, **days: float) -> None:
    Retention(site.database, site.settings.model_copy(update=days)).expire()
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


def test_all_fields_that_name_models_and_files_are_known() -> None:
    named = {"model", "adapter", "compare_with"}
    specs = get_args(get_args(AnySpec)[0])
    fields = {name for spec in specs for name in spec.model_fields}
    assert set(uses.FILE_FIELDS) == {name for name in fields if name.endswith("_file")}
    assert set(uses.FILE_LISTS) == {name for name in fields if name.endswith("_files")}
    assert set(uses.MODEL_FIELDS) == named & fields == named


class Deleting(RuleBasedStateMachine):
    """Jobs, models and deletions in any order: the store contains what rows refer to, and in the end nothing else."""

    job_ids = Bundle("job_ids")

    def __init__(self, make: Callable[[], Site]) -> None:
        super().__init__()
        self.site = make()
        self.running: dict[str, str] = {}
        self.made = 0

    @rule(target=job_ids, base=st.sampled_from(["base", "m1", "m2"]))
    def submit(self, base: str) -> str:
        try:
            job_id = self.site.deployment.submit(model=base, max_attempts=2).id
        except AssertionError:  # there is no such model now
            job_id = self.site.deployment.submit(max_attempts=2).id
        return job_id

    @rule(target=job_ids)
    def submit_named(self) -> str:
        self.made += 1
        return self.site.deployment.submit(output_model=f"m{self.made}", max_attempts=2).id

    @rule(job_id=job_ids)
    def start(self, job_id: str) -> None:
        if self.state(job_id) is JobState.QUEUED:
            self.running[job_id] = self.site.start(job_id)

    @rule(job_id=job_ids, how=st.sampled_from(["succeed", "stumble", "lose", "release"]))
    def end(self, job_id: str, how: str) -> None:
        if self.state(job_id) is not JobState.RUNNING:
            return
        attempt_id = self.running.pop(job_id)
        match how:
            case "succeed":
                self.site.succeed(job_id, attempt_id)
            case "lose":
                self.site.lose(attempt_id)
            case _:
                self.site.end(attempt_id, Event(how))

    @rule(job_id=job_ids, what=st.sampled_from(["cancel", "retry", "delete"]))
    def ask(self, job_id: str, what: str) -> None:
        if what == "cancel" and self.state(job_id) is JobState.RUNNING:
            return
        try:
            getattr(self.site, what)(job_id)
        except DomainError:
            return

    @rule(name=st.sampled_from(["base", "m1", "m2"]))
    def delete_model(self, name: str) -> None:
        try:
            with self.site.database.writing() as connection:
                deletions.delete_model(connection, self.site.project_id, name)
        except DomainError:
            return
        if name == "base":
            with self.site.database.writing() as connection:
                record = ModelRecord(
                    self.site.project_id, "base", "checkpoint", "ready", None, None, "/models/base", None, DETAILS, 1
                )
                assert model_rows.add(connection, record)

    @rule()
    def delete_many(self) -> None:
        delete_all(self.site)

    @rule(all_times=st.booleans())
    def clean(self, all_times: bool) -> None:
        self.site.clean(all_times=all_times)

    @rule()
    def expire(self) -> None:
        Retention(self.site.database, self.site.settings.model_copy(update={"keep_artifacts_days": 1e-9})).expire()

    @invariant()
    def what_rows_name_is_there(self) -> None:
        with self.site.database.reading() as connection:
            keys = [row[0] for row in connection.execute(sa.text("SELECT key FROM artifacts"))]
            keys += [row[0] for row in connection.execute(sa.text("SELECT key FROM models WHERE key IS NOT NULL"))]
            unfinished = connection.execute(sa.select(Job.spec).where(Job.state.in_(uses.UNFINISHED_STATES))).scalars()
            named = {spec["model"] for spec in unfinished}
            present = set(connection.execute(sa.text("SELECT id FROM models")).scalars())
        assert [key for key in keys if not self.site.exists(key)] == []
        assert named <= present
        for job_id, attempt_id in self.running.items():
            assert self.site.left(job_id, attempt_id) == (True, True)

    def teardown(self) -> None:
        for attempt_id in self.running.values():
            self.site.end(attempt_id, Event.FAIL)
        self.site.clean(all_times=True)
        with self.site.database.reading() as connection:
            kept = set(connection.execute(sa.text("SELECT key FROM artifacts")).scalars())
            waiting = set(connection.execute(sa.select(Job.id).where(Job.state == JobState.QUEUED)).scalars())
        assert isinstance(self.site.store, DirectoryStore)
        root = self.site.store.root
        stored = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert {key for key in stored if key.split("/")[1] not in waiting} == kept
        self.site.database.close()

    def state(self, job_id: str) -> JobState | None:
        try:
            return self.site.state(job_id)
        except NotFoundError:
            return None


@pytest.mark.slow
def test_needed_files_are_kept_and_all_others_deleted(tmp_path: Path) -> None:
    made = 0

    def make() -> Site:
        nonlocal made
        made += 1
        chosen = Settings(home=tmp_path / str(made), backoff_seconds=0)
        prepare(chosen)
        return Site(Deployment(Database(chosen.database), chosen), DirectoryStore(tmp_path / f"store{made}"))

    run_state_machine_as_test(
        lambda: Deleting(make),  # type: ignore[arg-type] # any callable that makes one will do
        settings=settings(max_examples=15, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
