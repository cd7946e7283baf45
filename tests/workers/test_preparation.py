"""The inputs of a runner, and rejections before any computation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baichuan_core.progress import Progress
from jobs.artifacts import DirectoryStore, input_key
from jobs.errors import InsufficientStorageError, InvalidRequestError, PathNotAllowedError
from jobs.records import AllocationRecord, AttemptRecord, JobRecord, ModelRecord
from jobs.service.claims import Claim
from jobs.settings import Settings
from jobs.specs import STORED_SPEC_ADAPTER, AnySpec, GenerateSpec, split_off_input
from jobs.state import JobState
from workers.handlers.contract import import_handler
from workers.preparation import prepare_context, require_disk_space

BASE = ModelRecord("p", "base", "checkpoint", "ready", None, None, None, "jobs/a/b/output/model", {}, 1)
ADAPTER = replace(BASE, id="lora", kind="adapter", base="base", key="jobs/c/d/output/model")


GENERATE = {"kind": "generate", "prompts": ["x"]}


def ignore(_progress: Progress) -> None:
    """Ignore progress."""


def claim_of(models: dict[str, ModelRecord], bases: dict[str, ModelRecord] | None = None, **fields: Any) -> Claim:
    """A claimed job whose spec names these models."""
    names = {field: model.id for field, model in models.items()}
    spec = STORED_SPEC_ADAPTER.validate_python({**(fields or GENERATE), **names})
    job = JobRecord(
        id="job-1",
        project_id="p",
        key_id=None,
        submitter="",
        kind=spec.kind,
        state=JobState.RUNNING,
        source_model=spec.source,
        output_model=None,
        labels={},
        priority=0,
        max_attempts=3,
        charged_attempts=0,
        attempt_count=2,
        attempt_id="att-2",
        not_before=0,
        idempotency_key=None,
        request_digest=None,
        requirement={},
        waiting=None,
        progress=None,
        error=None,
        last_event=1,
        version=1,
        created_at=1,
        started_at=1,
        finished_at=None,
    )
    attempt = AttemptRecord("att-2", "job-1", 2, "w", "running", 1, 1, None, None)
    place = AllocationRecord("att-2", 0, "job-1", "w", [], 0, exclusive=False, claimed_at=1, deadline=2)
    return Claim(job, attempt, spec, place, 1, None, models, bases or {}, {}, ["att-1"])


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """A store that holds the base and the adapter."""
    made = DirectoryStore(tmp_path / "artifacts")
    for model in (BASE, ADAPTER):
        (made.open_workspace(model.key or "") / "model.safetensors").write_bytes(b"x" * 1000)
    return made


def test_an_adapter_stands_for_its_base_and_itself(store: DirectoryStore, tmp_path: Path) -> None:
    claim = claim_of({"model": ADAPTER}, {"model": BASE})
    context = prepare_context(claim, store, Settings(home=tmp_path).allowed_model_roots, ignore)
    assert context.models == {"model": store.fetch_path(BASE.key or ""), "adapter": store.fetch_path(ADAPTER.key or "")}


def test_checkpoints_of_earlier_attempts_are_found(store: DirectoryStore, tmp_path: Path) -> None:
    context = prepare_context(claim_of({"model": BASE}), store, Settings(home=tmp_path).allowed_model_roots, ignore)
    assert context.earlier_checkpoints == [store.fetch_path("jobs/job-1/att-1/checkpoints")]
    assert context.output == store.fetch_path("jobs/job-1/att-2/output")


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (claim_of({"model": ADAPTER}), "base of adapter 'lora' is unknown"),
        (replace(claim_of({"model": BASE}), models={}), "no model 'base'"),
        (claim_of({"model": replace(BASE, state="pending", job_id="job-9")}), "still being made by job job-9"),
    ],
    ids=["base deleted", "model deleted", "model made anew"],
)
def test_models_that_changed_since_the_submission_are_refused(
    claim: Claim, message: str, store: DirectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        prepare_context(claim, store, Settings(home=tmp_path).allowed_model_roots, ignore)


def test_a_file_that_was_deleted_is_named(store: DirectoryStore, tmp_path: Path) -> None:
    file_id = "file-" + "0" * 26
    claim = claim_of({"model": BASE}, kind="generate", input_file=file_id)
    with pytest.raises(InvalidRequestError, match=f"there is no file {file_id}"):
        prepare_context(claim, store, Settings(home=tmp_path).allowed_model_roots, ignore)


def test_an_input_in_the_store_is_read_and_checked(store: DirectoryStore, tmp_path: Path) -> None:
    whole = GenerateSpec(kind="generate", model="base", prompts=["x" * 3000, "y"])
    separated = split_off_input(whole)
    claim = replace(claim_of({"model": BASE}), spec=separated.spec)
    key = input_key(claim.job.id)

    def find() -> AnySpec:
        return claim.spec.with_input(
            prepare_context(claim, store, Settings(home=tmp_path).allowed_model_roots, ignore).files
        )

    with pytest.raises(InvalidRequestError, match="the prompts of job job-1 are no longer stored"):
        find()
    store.fetch_path(key).parent.mkdir(parents=True)
    store.fetch_path(key).write_bytes(separated.content)
    restored = find()
    assert isinstance(restored, GenerateSpec)
    assert restored.model_dump(exclude={"inline_input", "batch"}) == whole.model_dump()
    store.fetch_path(key).write_bytes(separated.content.replace(b"y", b"z"))
    with pytest.raises(InvalidRequestError, match="the prompts of job job-1 were changed in the artifact store"):
        find()


def test_registered_directories_are_checked_again(store: DirectoryStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = Settings(home=tmp_path / "home", model_roots=(tmp_path / "models",))
    claim = claim_of({"model": replace(BASE, key=None, path=str(elsewhere))})
    with pytest.raises(PathNotAllowedError):
        prepare_context(claim, store, settings.allowed_model_roots, ignore)


def test_missing_disk_space_is_reported_in_bytes(store: DirectoryStore, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, free_space_reserve_bytes=2**60)
    claim = claim_of({"model": BASE}, kind="convert", target="safetensors")
    spec = claim.spec
    prepared = prepare_context(claim, store, settings.allowed_model_roots, ignore)
    context = replace(prepared, reserve_bytes=settings.free_space_reserve_bytes)
    with pytest.raises(InsufficientStorageError, match=f"needs about {2**60 + 1000} bytes of disk"):
        require_disk_space(spec, import_handler(spec), context, store)
