"""A key sees its own project and nothing else."""

import pytest

from tests.api.conftest import Api, problem_of


def test_nothing_of_another_project_exists(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit(output_model="made")["id"]
    attempt = api.start(job)
    api.finish(job, attempt, {"report.json": b"{}", "model/config.json": b"{}"})
    upload = api.client.post("/v1/files", data={"purpose": "prompts"}, files={"file": ("p.jsonl", b"{}")}).json()["id"]
    with api.new_key("other", role="admin") as stranger:
        for path in (
            f"/v1/jobs/{job}",
            f"/v1/jobs/{job}/events",
            f"/v1/jobs/{job}/logs",
            f"/v1/jobs/{job}/attempts",
            f"/v1/jobs/{job}/artifacts",
            f"/v1/jobs/{job}/artifacts/report.json",
            f"/v1/files/{upload}",
            f"/v1/files/{upload}/content",
            "/v1/models/base",
            "/v1/models/made",
        ):
            assert api.client.get(path).status_code == 200, path
            problem_of(stranger.get(path), 404, "not_found")
        streamed = stranger.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
        problem_of(streamed, 404, "not_found")
        for path in (f"/v1/jobs/{job}/cancel", f"/v1/jobs/{job}/retry"):
            problem_of(stranger.post(path), 404, "not_found")
        problem_of(stranger.delete(f"/v1/files/{upload}"), 404, "not_found")
        for path in ("/v1/jobs", "/v1/files", "/v1/models"):
            assert stranger.get(path).json()["data"] == []
        named = stranger.post("/v1/jobs", json={"kind": "quantize", "model": "base"})
        problem_of(named, 422, "unknown_model")
    assert api.client.get(f"/v1/files/{upload}").status_code == 200


def test_equal_names_and_keys_in_two_projects_are_independent(either_api: Api) -> None:
    api = either_api
    api.register_model()
    with api.new_key("other") as stranger:
        folder = api.settings.allowed_model_roots[0] / "base"
        assert stranger.post("/v1/models", json={"id": "base", "path": str(folder)}).status_code == 201
        spec = {"kind": "quantize", "model": "base", "output_model": "small"}
        headers = {"Idempotency-Key": "k"}
        ours, theirs = (c.post("/v1/jobs", json=spec, headers=headers) for c in (api.client, stranger))
        assert (ours.status_code, theirs.status_code) == (202, 202)
        assert ours.json()["id"] != theirs.json()["id"]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "Bearer wrong", f"Bearer {'x' * 600}"])
def test_without_a_valid_key_nothing_is_answered(shared_api: Api, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/files"), ("GET", "/v1/models/x"), ("GET", "/v1/workers")):
        request = shared_api.client.build_request(method, path)
        request.headers.pop("Authorization")
        request.headers.update(headers)
        answer = shared_api.client.send(request)
        assert problem_of(answer, 401, "invalid_api_key")["error"]["type"] == "authentication_error"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_only_administrators_create_list_and_revoke_keys(either_api: Api) -> None:
    api = either_api
    made = api.client.post("/v1/keys", json={"name": "laptop", "project": "team", "role": "member"})
    assert made.status_code == 201
    key = made.json()
    with api.client_for(key["secret"]) as member:
        assert member.get("/v1/jobs").status_code == 200
        for answer in (
            member.get("/v1/keys"),
            member.post("/v1/keys", json={"name": "x", "project": "y"}),
            member.delete(f"/v1/keys/{key['id']}"),
        ):
            problem_of(answer, 403, "permission_denied")
        listed = api.client.get("/v1/keys").json()
        assert [entry["project"] for entry in listed["data"]] == ["default", "team"]
        assert "secret" not in listed["data"][1]
        assert key["secret"] not in api.client.get("/v1/keys").text
        assert api.client.delete(f"/v1/keys/{key['id']}").json() == {
            "id": key["id"],
            "object": "api_key",
            "deleted": True,
        }
        problem_of(member.get("/v1/jobs"), 401, "invalid_api_key")
    problem_of(api.client.delete(f"/v1/keys/{key['id']}"), 404, "not_found")
    own = listed["data"][0]["id"]
    assert "another administrator" in problem_of(api.client.delete(f"/v1/keys/{own}"), 409, "conflict")["detail"]


@pytest.mark.parametrize("body", [{"name": "x"}, {"name": "", "project": "p"}, {"name": "x", "project": "a\0b"}])
def test_invalid_keys_are_rejected(shared_api: Api, body: dict[str, str]) -> None:
    problem_of(shared_api.client.post("/v1/keys", json=body), 422, "invalid_request")
