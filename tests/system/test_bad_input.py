"""Invalid input of users: responses contain a remedy, no incomplete results are visible, and the service stays up."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint
from tests.system.conftest import Service, start


@pytest.fixture(autouse=True)
def still_up(service: Service) -> Any:
    """Check after each test that the service is ready, and that a valid job is accepted and succeeds."""
    yield
    assert service.http.get("/readyz").status_code == 200
    job = service.run(kind="generate", model="tiny", prompts=["a"], max_new_tokens=1)
    assert job["state"] == "succeeded", job


def refused(answer: httpx.Response, status: int, param: str | None, *says: str) -> None:
    """Assert that an answer is a problem document about this field."""
    body = answer.json()
    assert answer.status_code == status, body
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert body["status"] == status
    assert body["error"]["param"] == param
    for part in says:
        assert part in body["detail"] + json.dumps(body.get("errors", "")), body


def failed(service: Service, job: dict[str, Any], code: str, *says: str) -> None:
    """Assert that a job failed immediately and permanently, and left nothing behind."""
    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", code, 1), job
    for part in says:
        assert part in job["error"]["message"], job["error"]
    assert service.artifacts(job) == []
    names = [model["id"] for model in service.http.get("/v1/models", params={"limit": 100}).json()["data"]]
    assert job["id"] not in names


def finetune(service: Service, content: bytes, **fields: Any) -> dict[str, Any]:
    """Run a fine-tune on this content, which is not checked when it is uploaded for another purpose."""
    file_id = service.upload(content, "user_data").json()["id"]
    return service.run(kind="finetune", model="tiny", training_file=file_id, **fields)


def test_an_unknown_model(service: Service) -> None:
    answer = service.http.post("/v1/jobs", json={"kind": "generate", "model": "nobody", "prompts": ["a"]})
    refused(answer, 422, "model", "there is no model 'nobody'", "POST /v1/models")


def test_paths_outside_the_allowed_roots(service: Service, tmp_path: Path) -> None:
    outside = make_tiny_checkpoint(tmp_path / "outside")
    link = service.models / "link"
    link.symlink_to(outside)
    for path in (outside, link, service.models / ".." / "models" / "tiny", Path("tiny")):
        refused(service.register("outside", path), 422, "path", " under")


def test_an_upload_that_is_too_large(service: Service) -> None:
    refused(service.upload(b"x" * 1_000_001), 413, "file", "1000000")
    assert [file for file in service.http.get("/v1/files").json()["data"] if file["job_id"] is None] == []


def test_malformed_json_names_the_line(service: Service) -> None:
    failed(service, finetune(service, b'[\n {"id": "0",\n  "conversations": [}\n]'), "dataset", "line 3")


def test_an_unknown_role_names_the_line_and_the_roles(service: Service) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "robot", "value": "b"}]
    lines = [json.dumps({"id": "0", "conversations": t}) for t in ([*turns[:1], {"from": "gpt", "value": "c"}], turns)]
    job = finetune(service, "\n".join(lines).encode())
    failed(service, job, "dataset", "line 2", "robot", "human", "gpt")


def test_a_data_set_that_is_not_text(service: Service) -> None:
    failed(service, finetune(service, b"\xff\xfe\x00\x01"), "dataset", "UTF-8")


def test_a_missing_tokenizer(service: Service) -> None:
    folder = make_tiny_checkpoint(service.models / "mute")
    assert service.register("mute", folder).status_code == 201
    (folder / "tokenizer.model").unlink()
    refused(service.register("mute-again", folder), 422, "path", "tokenizer.model is missing")
    job = service.run(kind="generate", model="mute", prompts=["a"])
    failed(service, job, "tokenizer", "tokenizer.model")


def test_a_model_that_has_vanished(service: Service) -> None:
    folder = make_tiny_checkpoint(service.models / "gone")
    service.register("gone", folder)
    folder.rename(service.models / "moved")
    job = service.run(kind="quantize", model="gone")
    assert job["state"] == "failed"
    assert "gone" in job["error"]["message"]


def test_a_damaged_checkpoint(service: Service) -> None:
    folder = make_tiny_checkpoint(service.models / "damaged")
    service.register("damaged", folder)
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    failed(service, service.run(kind="convert", target="baichuan1", model="damaged"), "checkpoint", weights.name)


def test_an_adapter_on_the_wrong_base(service: Service) -> None:
    other = make_tiny_checkpoint(service.models / "other", family="baichuan2-13b", seed=1)
    service.register("other", other)
    adapter = finetune(service, CONVERSATIONS.read_bytes(), method="lora", epochs=1)
    assert adapter["state"] == "succeeded", adapter
    right = service.run(kind="generate", model="tiny", adapter=adapter["model"], prompts=["a"], max_new_tokens=2)
    assert right["state"] == "succeeded", right
    wrong = service.run(kind="generate", model="other", adapter=adapter["model"], prompts=["a"])
    failed(service, wrong, "adapter_mismatch", "base")


def test_a_prompt_longer_than_the_window(service: Service) -> None:
    job = service.run(kind="generate", model="tiny", prompts=["short", "长" * 5000])
    failed(service, job, "prompt", "2")


def test_invalid_fields_and_bodies(service: Service) -> None:
    good = {"kind": "generate", "model": "tiny", "prompts": ["a"]}
    post = service.http.post
    refused(post("/v1/jobs", json={**good, "temperature": 9}), 422, "temperature", "less than or equal to 2")
    refused(post("/v1/jobs", json={**good, "surprise": 1}), 422, "surprise", "remove it or correct its name")
    refused(post("/v1/jobs", json={"kind": "paint"}), 422, "kind", "quantize")
    refused(post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}), 400, None, "JSON")


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    up, full = start(tmp_path, BAICHUAN_FREE_SPACE_RESERVE_BYTES=str(10**15))
    try:
        refused(full.upload(b"[]"), 507, None, "full", "delete")
        make_tiny_checkpoint(full.models / "tiny")
        assert full.register("tiny", full.models / "tiny").status_code == 201
        failed(full, full.run(kind="convert", target="baichuan1", model="tiny"), "insufficient_storage", "free")
    finally:
        full.http.close()
        up.end()
