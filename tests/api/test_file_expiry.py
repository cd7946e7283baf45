"""Expired files are deleted."""

from tests.api.conftest import Api, problem_of


def test_a_file_is_gone_when_it_expires(either_api: Api) -> None:
    api = either_api
    api.register_model()
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    answer = api.client.post("/v1/files", data={"purpose": "user_data", **expiry}, files={"file": ("a", b"{}")})
    file = answer.json()
    assert file["expires_at"] == file["created_at"] + 3600
    assert api.client.get("/v1/files").json()["data"] == [file]
    spec = {"kind": "generate", "model": "base", "input_file": file["id"]}
    assert api.client.post("/v1/jobs", json=spec).status_code == 202
    with api.database.writing() as connection:
        connection.exec_driver_sql("UPDATE files SET expires_at = created_at - 1")
    assert api.client.get("/v1/files").json()["data"] == []
    problem_of(api.client.get(f"/v1/files/{file['id']}"), 404, "not_found")
    problem_of(api.client.get(f"/v1/files/{file['id']}/content"), 404, "not_found")
    problem_of(api.client.post("/v1/jobs", json=spec), 422, "unknown_file")
