"""Resume points are listed and can be published as models, while the job runs and after it was cancelled or failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.artifacts import Workspace, describe_files
from jobs.artifacts.resume_points import ResumePoint, ResumePointModel, delete_resume_point, write_description
from jobs.state import Event
from tests.api.conftest import Api, problem_of, serving, small
from tests.jobs.pool import hold

WEIGHTS = bytes(1000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "optimizer.pt": bytes(2000)}


@pytest.fixture(params=["directory", "object store"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    """An API on each kind of store."""
    (tmp_path / "objects").mkdir()
    url = (tmp_path / "objects").as_uri() if request.param == "object store" else ""
    with serving(small(tmp_path / "home", artifact_root=url)) as api:
        api.register_model()
        yield api


def save(api: Api, job_id: str, attempt: str, step: int, *, in_shards: bool = False) -> None:
    """Put a resume point into the store, as a runner does."""
    store, workspace = api.store, Workspace(job_id, attempt)
    folder = store.open_workspace(workspace.resume_point_key(step))
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    model = ResumePointModel("checkpoint", {"bytes": 1002}, describe_files(folder, ("*.json", "*.safetensors")))
    sizes = {name: len(content) for name, content in FILES.items()}
    store.share(store.hold(workspace.resume_point_key(step)), workspace.resume_point_key(step))
    write_description(store, ResumePoint(job_id, attempt, step, 1_000, sizes, None if in_shards else model))


def publish(api: Api, job_id: str, step: int, **body: str) -> int:
    return api.client.post(f"/v1/jobs/{job_id}/resume-points/{step}/publish", json=body).status_code


def test_a_running_job_publishes_and_continues(stored: Api) -> None:
    job = stored.submit(output_model="result")["id"]
    attempt = stored.start(job)
    for step in (20, 100, 40):
        save(stored, job, attempt, step)
    address = f"/v1/jobs/{job}/resume-points"
    listed = stored.client.get(address, params={"limit": 2}).json()
    assert [(point["step"], point["kind"], point["bytes"]) for point in listed["data"]] == [
        (20, "checkpoint", 3002),
        (40, "checkpoint", 3002),
    ]
    rest = stored.client.get(address, params={"after": listed["last_id"]}).json()
    assert ([point["step"] for point in rest["data"]], rest["has_more"]) == ([100], False)
    made = stored.client.post(f"{address}/40/publish", json={"id": "halfway"})
    assert (made.status_code, made.headers["Location"]) == (201, "/v1/models/halfway")
    assert {name: made.json()[name] for name in ("base", "job_id", "kind")} == {
        "base": "base",
        "job_id": job,
        "kind": "checkpoint",
    }
    stored.finish(job, attempt, {"model/model.safetensors": b"end"})
    stored.clean()  # deletes the resume points
    assert stored.client.get(address).json()["data"] == []
    assert {model["id"] for model in stored.client.get("/v1/models").json()["data"]} == {"base", "halfway", "result"}
    artifacts = stored.client.get(f"/v1/jobs/{job}/artifacts").json()["data"]
    (weights,) = [each["path"] for each in artifacts if each["path"].startswith("published/")][1:]
    assert stored.client.get(f"/v1/jobs/{job}/artifacts/{weights}").content == WEIGHTS
    folder = stored.store.fetch_path(f"jobs/{job}/{weights.split('/')[1]}")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    for artifact in artifacts:
        assert stored.client.get("/v1/files", params={"after": artifact["id"]}).status_code == 200


@pytest.mark.parametrize("event", [Event.FAIL, Event.STOP])
def test_points_of_a_job_without_a_result_become_models(stored: Api, event: Event) -> None:
    job = stored.submit(max_attempts=1)["id"]
    attempt = stored.start(job)
    save(stored, job, attempt, 10)
    if event is Event.STOP:
        assert stored.client.post(f"/v1/jobs/{job}/cancel").status_code == 202
    with stored.database.writing() as connection:
        hold(connection, attempt, "wrk-1", stored.settings).end(event)
    stored.clean()
    assert publish(stored, job, 10) == 201
    assert stored.client.get(f"/v1/models/{job}-step-10").status_code == 200
    assert publish(stored, job, 10) == 409  # the name is taken
    assert stored.client.delete(f"/v1/models/{job}-step-10").status_code == 200
    assert publish(stored, job, 10) == 201


def test_invalid_publications_are_explained(stored: Api) -> None:
    job = stored.submit()["id"]
    attempt = stored.start(job)
    address = f"/v1/jobs/{job}/resume-points"
    missing = problem_of(stored.client.post(f"{address}/7/publish"), 404, "not_found")
    assert "it has none at the moment" in missing["detail"]
    save(stored, job, attempt, 10, in_shards=True)
    save(stored, job, attempt, 20)
    missing = problem_of(stored.client.post(f"{address}/7/publish"), 404, "not_found")
    assert "it has resume points at steps 10, 20" in missing["detail"]
    assert "in shards" in problem_of(stored.client.post(f"{address}/10/publish"), 409, "conflict")["detail"]
    taken = problem_of(stored.client.post(f"{address}/20/publish", json={"id": "base"}), 409, "name_taken")
    assert "choose another id" in taken["detail"]
    with stored.new_key("others") as other:
        assert other.get(address).status_code == 404
        assert other.post(f"{address}/20/publish").status_code == 404
    delete_resume_point(stored.store, Workspace(job, attempt), 20)
    assert publish(stored, job, 20) == 404


def test_a_point_that_is_replaced_meanwhile_leaves_nothing(stored: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job = stored.submit()["id"]
    attempt = stored.start(job)
    save(stored, job, attempt, 10)
    service, copy = stored.app.state.service.store, stored.app.state.service.store.copy

    def rotate_first(source: str, target: str) -> None:
        if source.endswith(".safetensors"):
            delete_resume_point(service, Workspace(job, attempt), 10)
        copy(source, target)

    monkeypatch.setattr(service, "copy", rotate_first)
    found = problem_of(stored.client.post(f"/v1/jobs/{job}/resume-points/10/publish"), 409, "conflict")
    assert "was replaced by a new one" in found["detail"]
    stored.clean()
    assert stored.store.list_sizes(f"jobs/{job}") == {}
