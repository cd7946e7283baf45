"""DELETE for jobs, artifacts, models and files, and bulk deletion."""

import pytest

from tests.api.conftest import Api, problem_of

FILES = {"model/config.json": b"{}", "report.json": b"{}"}


@pytest.fixture
def busy(either_api: Api) -> Api:
    """An API with the model `base`."""
    either_api.register_model()
    return either_api


def made(api: Api, name: str) -> str:
    job: str = api.submit(output_model=name)["id"]
    api.finish(job, api.start(job), FILES)
    return job


def test_a_job_is_deleted_only_when_it_is_final_and_unused(busy: Api) -> None:
    job = made(busy, "small/one")
    user = busy.submit(kind="generate", model="small/one", prompts=["a"])["id"]
    problem = problem_of(busy.client.delete(f"/v1/jobs/{job}"), 409, "in_use")
    assert user in problem["detail"]
    assert "small/one" in problem["detail"]
    problem_of(busy.client.delete(f"/v1/jobs/{user}"), 409, "in_use")
    busy.client.post(f"/v1/jobs/{user}/cancel").raise_for_status()
    gone = busy.client.delete(f"/v1/jobs/{job}")
    assert gone.json() == {"id": job, "object": "job", "deleted": True}
    problem_of(busy.client.get(f"/v1/jobs/{job}"), 404, "not_found")
    problem_of(busy.client.delete(f"/v1/jobs/{job}"), 404, "not_found")
    problem_of(busy.client.get("/v1/models/small%2Fone"), 404, "not_found")
    busy.clean()
    assert not (busy.settings.home / "artifacts" / "jobs" / job).exists()


def test_artifacts_and_models_are_deleted(busy: Api) -> None:
    job = made(busy, "small/one")
    address = f"/v1/jobs/{job}/artifacts"
    assert "small/one" in problem_of(busy.client.delete(f"{address}/model/config.json"), 409, "in_use")["detail"]
    assert busy.client.delete(f"{address}/report.json").json()["object"] == "job.artifact"
    problem_of(busy.client.get(f"{address}/report.json"), 404, "not_found")
    user = busy.submit(model="small/one")["id"]
    assert user in problem_of(busy.client.delete("/v1/models/small%2Fone"), 409, "in_use")["detail"]
    busy.client.post(f"/v1/jobs/{user}/cancel").raise_for_status()
    assert busy.client.delete("/v1/models/small%2Fone").json() == {
        "id": "small/one",
        "object": "model",
        "deleted": True,
    }
    assert busy.client.get(address).json()["data"] == []


def test_deleting_a_registered_model_deletes_only_the_registration(busy: Api) -> None:
    folder = busy.settings.allowed_model_roots[0] / "base"
    busy.client.delete("/v1/models/base").raise_for_status()
    busy.clean()
    assert (folder / "model.safetensors").exists()
    problem_of(busy.client.delete("/v1/models/base"), 404, "not_found")


def test_a_file_that_a_job_needs_is_kept(busy: Api) -> None:
    form = {"files": {"file": ("p.jsonl", b'{"prompt": "a"}')}, "data": {"purpose": "prompts"}}
    file = busy.client.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]
    job = busy.submit(kind="generate", input_file=file)["id"]
    assert job in problem_of(busy.client.delete(f"/v1/files/{file}"), 409, "in_use")["detail"]
    busy.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    busy.client.delete(f"/v1/files/{file}").raise_for_status()


def test_if_match_guards_deletions(busy: Api) -> None:
    job = made(busy, "small")
    report = f"/v1/jobs/{job}/artifacts/report.json"
    form = {"files": {"file": ("p.jsonl", b'{"prompt": "a"}')}, "data": {"purpose": "prompts"}}
    file = busy.client.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]
    tags = {
        report: busy.client.get(report).headers["ETag"],
        f"/v1/files/{file}": busy.client.get(f"/v1/files/{file}/content").headers["ETag"],
        "/v1/models/small": "*",
        f"/v1/jobs/{job}": busy.client.get(f"/v1/jobs/{job}").headers["ETag"],
    }
    for address, tag in tags.items():
        for other in ('"0"', f"W/{tag}", ""):
            problem_of(busy.client.delete(address, headers={"If-Match": other}), 412, "version_conflict")
        busy.client.delete(address, headers={"If-Match": tag}).raise_for_status()
    key = busy.client.get("/v1/keys").json()["data"][-1]["id"]
    problem_of(busy.client.delete(f"/v1/keys/{key}", headers={"If-Match": '"0"'}), 412, "version_conflict")


def test_another_project_deletes_nothing_of_ours(busy: Api) -> None:
    job = made(busy, "small")
    stranger = busy.new_key("others")
    for address in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/artifacts/report.json", "/v1/models/small"):
        problem_of(stranger.delete(address), 404, "not_found")
    stranger.close()
