"""Prompts and conversations that are too long for a row: stored as a file, described in the spec."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from jobs.artifacts import input_key
from jobs.database.tables import Job
from tests.api.conftest import Api, problem_of, serving, small

PROMPTS = ["你好 " * 500, "second", "third"]
CONVERSATIONS = [[{"role": "user", "content": "长" * 2000}, {"role": "assistant", "content": ""}]]


def stored_files(api: Api) -> list[str]:
    """Files in the artifact store, by key."""
    root = Path(api.settings.effective_artifact_root)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def send(api: Api, key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return api.client.post("/v1/jobs", json={"kind": "generate", "model": "base", **fields}, headers=headers)


@pytest.mark.parametrize(("field", "sent"), [("prompts", PROMPTS), ("conversations", CONVERSATIONS)])
def test_a_long_input_is_described_in_the_spec_and_can_be_downloaded(either_api: Api, field: str, sent: Any) -> None:
    either_api.register_model()
    job = send(either_api, **{field: sent}, temperature=0.5).json()
    assert either_api.client.get(f"/v1/jobs/{job['id']}").json() == job
    spec, described = job["spec"], job["spec"]["inline_input"]
    assert (spec["prompts"], spec["conversations"], spec["temperature"]) == (None, None, 0.5)
    answer = either_api.client.get(f"/v1/jobs/{job['id']}/input")
    assert answer.json() == sent
    assert answer.headers["ETag"] == f'"{described["sha256"]}"'
    assert (described["field"], described["count"], described["bytes"]) == (field, len(sent), len(answer.content))
    first = sent[0] if field == "prompts" else sent[0][0]["content"]
    assert described["preview"] == first[:200]
    assert stored_files(either_api) == [input_key(job["id"])]


def test_rows_stay_short_however_long_the_input(api: Api) -> None:
    api.register_model()
    send(api, prompts=["长" * 20_000])
    send(api, prompts=["a"] * 1000)
    send(api, conversations=[[{"role": "user", "content": ""}] * 200] * 10)
    send(api, prompts=["长" * 900])  # short enough to stay in its row
    with api.database.reading() as connection:
        sizes = [len(json.dumps(spec)) for spec in connection.execute(sa.select(Job.spec)).scalars()]
    assert len(sizes) == 4
    assert max(sizes) < 8000
    assert len(stored_files(api)) == 3


def test_a_short_input_stays_in_the_spec(api: Api) -> None:
    api.register_model()
    job = send(api, prompts=["hello"]).json()
    assert job["spec"]["prompts"] == ["hello"]
    assert "inline_input" not in job["spec"]
    problem = problem_of(api.client.get(f"/v1/jobs/{job['id']}/input"), 404, "not_found")
    assert "shows its whole spec" in problem["detail"]
    assert stored_files(api) == []


def test_repeating_a_request_compares_the_whole_input_and_stores_it_once(either_api: Api) -> None:
    either_api.register_model()
    first = send(either_api, "once", prompts=PROMPTS)
    again = send(either_api, "once", prompts=PROMPTS)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    other = send(either_api, "once", prompts=[*PROMPTS[:2], "changed"])
    problem_of(other, 409, "idempotency_conflict")
    either_api.clean()
    assert stored_files(either_api) == [input_key(first.json()["id"])]


def test_a_refused_job_leaves_no_file(api: Api) -> None:
    problem_of(send(api, prompts=PROMPTS), 422, "unknown_model")
    api.clean()
    assert stored_files(api) == []


def test_a_retried_job_keeps_its_input(api: Api) -> None:
    api.register_model()
    job = send(api, prompts=PROMPTS).json()
    api.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.client.post(f"/v1/jobs/{job['id']}/retry").json()["spec"] == job["spec"]
    assert api.client.get(f"/v1/jobs/{job['id']}/input").json() == PROMPTS


def test_clients_cannot_send_the_description_themselves(api: Api) -> None:
    api.register_model()
    described = {"field": "prompts", "count": 1, "bytes": 1, "sha256": "0" * 64, "preview": ""}
    problem = problem_of(send(api, inline_input=described), 422, "invalid_request")
    assert "inline_input" in {fault["param"] for fault in problem["errors"]}


def test_inputs_of_other_projects_cannot_be_read(api: Api) -> None:
    api.register_model()
    job = send(api, prompts=PROMPTS).json()
    with api.new_key("others") as stranger:
        problem_of(stranger.get(f"/v1/jobs/{job['id']}/input"), 404, "not_found")


def test_a_store_without_room_refuses_the_job(tmp_path: Path) -> None:
    with serving(small(tmp_path / "home", free_space_reserve_bytes=2**60)) as api:
        api.register_model()
        problem_of(send(api, prompts=PROMPTS), 507, "insufficient_storage")
        assert send(api, prompts=["short"]).status_code == 202
        assert len(api.client.get("/v1/jobs").json()["data"]) == 1


def test_a_store_that_cannot_be_written_refuses_the_job(api: Api) -> None:
    api.register_model()
    incoming = Path(api.settings.effective_artifact_root) / "incoming"
    incoming.write_bytes(b"")  # tests run as root, for whom permissions do not apply
    problem_of(send(api, prompts=PROMPTS), 503, "storage_unavailable")
    incoming.unlink()
    assert send(api, prompts=PROMPTS).status_code == 202
    assert len(stored_files(api)) == 1
