"""Models: registering checkpoints, and what is refused."""

from pathlib import Path

import pytest

from tests.api.conftest import Api, checkpoint, problem_of


def test_a_checkpoint_is_registered_and_found_by_a_name_with_slashes(either_api: Api) -> None:
    api = either_api
    folder = api.settings.allowed_model_roots[0] / "chat"
    checkpoint(folder)
    answer = api.client.post("/v1/models", json={"id": "baichuan-inc/Baichuan2-7B-Chat", "path": str(folder)})
    model = answer.json()
    assert answer.status_code == 201
    assert (model["object"], model["owned_by"], model["kind"]) == ("model", "default", "checkpoint")
    assert model["details"]["hidden_size"] == 8
    for address in ("baichuan-inc/Baichuan2-7B-Chat", "baichuan-inc%2FBaichuan2-7B-Chat"):
        assert api.client.get(f"/v1/models/{address}").json() == model
    assert api.client.get("/v1/models").json()["data"] == [model]
    again = api.client.post("/v1/models", json={"id": model["id"], "path": str(folder)})
    assert (again.status_code, again.json()) == (201, model)
    other = folder.with_name("other")
    checkpoint(other)
    problem_of(api.client.post("/v1/models", json={"id": model["id"], "path": str(other)}), 409, "name_taken")
    problem_of(api.client.get("/v1/models/nobody"), 404, "not_found")


def test_models_are_listed_by_name_in_pages(api: Api) -> None:
    for name in ("b", "a", "c"):
        api.register_model(name)
    first = api.client.get("/v1/models?limit=2").json()
    assert ([m["id"] for m in first["data"]], first["has_more"]) == (["a", "b"], True)
    assert [m["id"] for m in api.client.get("/v1/models?after=b").json()["data"]] == ["c"]


@pytest.mark.parametrize("path", ["/etc", "relative", "{root}/../outside", "{root}/link", "{root}/leaking"])
def test_paths_outside_the_roots_are_refused(api: Api, tmp_path: Path, path: str) -> None:
    root = api.settings.allowed_model_roots[0]
    outside = tmp_path / "outside"
    checkpoint(outside)
    (root / "link").symlink_to(outside)
    checkpoint(root / "leaking")
    (root / "leaking" / "extra.bin").symlink_to(outside / "config.json")
    answer = api.client.post("/v1/models", json={"id": "m", "path": path.format(root=root)})
    assert problem_of(answer, 422, "path_not_allowed")["error"]["param"] == "path"


def test_directories_that_are_no_checkpoint_are_refused_with_what_is_missing(api: Api) -> None:
    folder = api.settings.allowed_model_roots[0] / "m"

    def refusal() -> str:
        answer = api.client.post("/v1/models", json={"id": "m", "path": str(folder)})
        return str(problem_of(answer, 422, "invalid_request")["detail"])

    assert "not a directory" in refusal()
    checkpoint(folder)
    (folder / "tokenizer.model").unlink()
    assert "tokenizer.model is missing" in refusal()
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in refusal()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert "only 'baichuan'" in refusal()
    for body, param in (
        ({"id": "m"}, "path"),
        ({"id": "a b", "path": "/x"}, "id"),
        ({"id": "m", "path": "\0"}, "path"),
    ):
        answer = api.client.post("/v1/models", json=body)
        assert problem_of(answer, 422, "invalid_request")["error"]["param"] == param
