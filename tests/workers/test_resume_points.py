"""Resume points in the artifact store: other machines can continue from them, and incomplete ones are ignored."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_checkpoint import make_tiny_checkpoint
from jobs.artifacts import ArtifactStore, ObjectStore, Workspace
from jobs.artifacts.resume_points import list_complete_resume_points
from tests.jobs.conftest import s3_endpoint, s3_store, store
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from workers.resume_points import ResumePoints

__all__ = ["s3_endpoint", "s3_store", "store"]

STEPS = 150


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"))


def save(store: ArtifactStore, workspace: Workspace, step: int, checkpoint: Path) -> Path:
    """Write a resume point as the Trainer does."""
    folder = store.open_workspace(workspace.checkpoints) / f"checkpoint-{step}"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "optimizer.pt").write_bytes(bytes(step))
    (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    return folder


def test_points_are_shared_in_the_background_and_fetched_elsewhere(
    store: ArtifactStore, checkpoint: Path, tmp_path: Path
) -> None:
    mine = Workspace("job-1", "att-1")
    points = ResumePoints(store, mine, [])
    for step in (10, 20):
        points.schedule_upload(save(store, mine, step, checkpoint))
        points.flush()
    found = list_complete_resume_points(store, "job-1", ["att-1"])
    assert [point.step for point in found] == [10, 20]
    model = found[1].model
    assert model is not None
    assert model.kind == "checkpoint"
    assert "optimizer.pt" not in [file.path for file in model.files]
    assert {"config.json", "tokenizer.model"} <= {file.path for file in model.files}
    other = ObjectStore(store._backend, tmp_path / "other") if isinstance(store, ObjectStore) else store
    later = ResumePoints(other, Workspace("job-1", "att-2"), ["att-1"])
    folder = later.fetch(later.list_earlier()[-1])
    assert (folder / "optimizer.pt").read_bytes() == bytes(20)


def test_incomplete_points_are_ignored(store: ArtifactStore, checkpoint: Path) -> None:
    mine = Workspace("job-1", "att-1")
    points = ResumePoints(store, mine, [])
    store.share(store.hold(_key(save(store, mine, 5, checkpoint), mine)), mine.resume_point_key(5))
    assert list_complete_resume_points(store, "job-1", ["att-1"]) == []  # without a description
    points.schedule_upload(save(store, mine, 10, checkpoint))
    points.flush()
    store.delete(f"{mine.resume_point_key(10)}/optimizer.pt")
    assert list_complete_resume_points(store, "job-1", ["att-1"]) == []  # a file is missing


def test_rotated_points_are_deleted_from_the_store(s3_store: ObjectStore, checkpoint: Path) -> None:
    mine = Workspace("job-1", "att-1")
    points = ResumePoints(s3_store, mine, [])
    first = save(s3_store, mine, 10, checkpoint)
    points.schedule_upload(first)
    points.flush()
    for file in first.iterdir():
        file.unlink()
    first.rmdir()
    points.schedule_upload(save(s3_store, mine, 20, checkpoint))
    points.flush()
    assert [point.step for point in list_complete_resume_points(s3_store, "job-1", ["att-1"])] == [20]
    assert not any("checkpoint-10" in path for path in s3_store.list_sizes("jobs/job-1"))


def test_the_newest_point_in_the_store_stays_until_the_next_one_is_there(
    s3_store: ObjectStore, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training may delete a point while it is uploaded; if the machine is then lost, no other point is in the store."""
    mine, began, may_upload = Workspace("job-1", "att-1"), threading.Event(), threading.Event()
    points, upload = ResumePoints(s3_store, mine, []), s3_store._upload

    def upload_slowly(folder: Path, key: str) -> None:
        began.set()
        may_upload.wait()
        upload(folder, key)

    monkeypatch.setattr(s3_store, "_upload", upload_slowly)
    first = save(s3_store, mine, 10, checkpoint)
    points.schedule_upload(first)
    began.wait()
    for file in first.iterdir():
        file.unlink()
    first.rmdir()
    may_upload.set()
    points.flush()
    assert [point.step for point in list_complete_resume_points(s3_store, "job-1", ["att-1"])] == [10]


def test_training_does_not_wait_for_a_slow_store(
    s3_store: ObjectStore, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resume points that are deleted while they are uploaded still arrive; of those that wait, only the newest does."""
    mine, may_upload = Workspace("job-1", "att-1"), threading.Event()
    points, upload = ResumePoints(s3_store, mine, []), s3_store._upload

    def upload_slowly(folder: Path, key: str) -> None:
        may_upload.wait()
        upload(folder, key)

    monkeypatch.setattr(s3_store, "_upload", upload_slowly)
    for step in (10, 20, 30):
        folder = save(s3_store, mine, step, checkpoint)
        points.schedule_upload(folder)
        wait_for("the upload to begin", lambda: points._is_busy)
        if step == 10:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    assert list_complete_resume_points(s3_store, "job-1", ["att-1"]) == []
    may_upload.set()
    points.flush()
    assert [point.step for point in list_complete_resume_points(s3_store, "job-1", ["att-1"])] == [30]
    assert not list(s3_store.open_scratch_folder().iterdir())


def test_a_store_that_fails_does_not_end_the_training(
    s3_store: ObjectStore, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Workspace("job-1", "att-1")
    points = ResumePoints(s3_store, mine, [])
    with monkeypatch.context() as broken:
        broken.setattr(s3_store, "_upload", lambda *_: (_ for _ in ()).throw(OSError("no network")))
        points.schedule_upload(save(s3_store, mine, 10, checkpoint))
        points.flush()
    assert "resume point 10 could not be stored: no network" in capsys.readouterr().out
    points.schedule_upload(save(s3_store, mine, 20, checkpoint))
    points.flush()
    assert [point.step for point in list_complete_resume_points(s3_store, "job-1", ["att-1"])] == [20]


def _key(folder: Path, workspace: Workspace) -> str:
    return f"{workspace.checkpoints}/{folder.name}"


@pytest.fixture
def service(
    tmp_path: Path,
    redis_server: RedisServer,
    tiny_checkpoint: Path,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Deployment]:
    """A deployment on S3 with short leases."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    clock: dict[str, Any] = {"lease_seconds": 3, "heartbeat_seconds": 0.5, "pickup_seconds": 4, "backoff_seconds": 0}
    root = f"s3://results/{tmp_path.name}"
    with deployment(
        tmp_path / "home", redis_server, artifact_root=root, model_roots=str(tiny_checkpoint), **clock
    ) as made:
        made.register("tiny", tiny_checkpoint)
        made.start_dispatcher()
        yield made


@pytest.mark.alone  # a worker is killed, and another one starts
@pytest.mark.integration
def test_another_machine_continues_with_its_own_disk(service: Deployment, conversations: Path, tmp_path: Path) -> None:
    service.start_worker("first", home=tmp_path / "first")
    uploaded = service.upload(conversations, "fine-tune")
    job_id = service.submit(
        kind="finetune",
        model="tiny",
        training_file=uploaded.id,
        validation_split=0.25,
        method="lora",
        max_steps=STEPS,
        batch_size=1,
        max_length=64,
        save_steps=10,
        eval_steps=50,
    )

    def shared() -> list[int]:
        tried = [attempt.id for attempt in service.attempts(job_id)]
        return [point.step for point in list_complete_resume_points(service.store, job_id, tried)]

    wait_for("a resume point in the store", shared)
    service.end("first", signal.SIGKILL)
    service.start_worker("second", home=tmp_path / "second")
    job = service.wait(job_id)
    assert [attempt.state for attempt in service.attempts(job_id)] == ["lost", "succeeded"]
    assert job.result is not None
    assert job.result["resumed_from_step"] >= 10
    assert (job.result["steps"], job.result["best_step"] is not None) == (STEPS, True)
    assert service.model(job_id).state == "ready"
    assert not list((tmp_path / "second").glob("cache/work/incoming/*"))
