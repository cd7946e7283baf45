"""Jobs, models and deletions in any order: the store contains what rows refer to, and in the end nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from jobs.artifacts import DirectoryStore
from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.database.tables import Job
from jobs.errors import DomainError, NotFoundError
from jobs.maintenance import RetentionPass
from jobs.records import ModelRecord
from jobs.repository import models as model_rows
from jobs.repository import uses
from jobs.service import deletions
from jobs.settings import Settings
from jobs.specs import AnySpec
from jobs.state import Event, JobState
from tests.jobs.conftest import DETAILS, Deployment
from tests.jobs.site import Site, delete_all


def test_all_fields_that_name_models_and_files_are_known() -> None:
    named = {"model", "adapter", "compare_with"}
    specs = get_args(get_args(AnySpec)[0])
    fields = {name for spec in specs for name in spec.model_fields}
    assert set(uses.FILE_FIELDS) == {name for name in fields if name.endswith("_file")}
    assert set(uses.FILE_LIST_FIELDS) == {name for name in fields if name.endswith("_files")}
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
        RetentionPass(self.site.database, self.site.settings.model_copy(update={"keep_artifacts_days": 1e-9})).expire()

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
        prepare_deployment(chosen)
        return Site(
            Deployment(Database(chosen.effective_database_url), chosen), DirectoryStore(tmp_path / f"store{made}")
        )

    run_state_machine_as_test(
        lambda: Deleting(make),  # type: ignore[arg-type] # any callable that makes one will do
        settings=settings(max_examples=15, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
