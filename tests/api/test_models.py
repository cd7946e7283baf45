"""Models: registering checkpoints, and rejections."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api, checkpoint, problem_of
from tests.model_files import write_model_files


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


def test_incomplete_checkpoints_are_rejected_with_what_is_missing(api: Api) -> None:
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
    assert "use a checkpoint of the Baichuan family" in refusal()
    for body, param in (
        ({"id": "m"}, "path"),
        ({"id": "a b", "path": "/x"}, "id"),
        ({"id": "m", "path": "\0"}, "path"),
    ):
        answer = api.client.post("/v1/models", json=body)
        assert problem_of(answer, 422, "invalid_request")["error"]["param"] == param


def config(**fields: Any) -> Callable[[Path], object]:
    """Return a change of a directory that adds these fields to its config.json."""
    text = json.dumps({"model_type": "baichuan", **fields})  # in ASCII: lone surrogates are escaped
    return lambda folder: (folder / "config.json").write_text(text)


def tensors(header: str) -> Callable[[Path], object]:
    """Make a change of a directory: it is a whole checkpoint, but the header of its weights is this text."""
    content = len(header).to_bytes(8, "little") + header.encode()
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def text(content: str, name: str = "config.json") -> Callable[[Path], object]:
    """Return a change of a directory that writes this content to a file."""
    return lambda folder: (folder / name).write_text(content)


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return a change of a directory that replaces a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "lone surrogate": (config(position_embedding="\ud800"), "config.json: position_embedding: "),
    "NUL": (config(position_embedding="rope\0"), "config.json: position_embedding: "),
    "long string": (config(position_embedding="x" * 10_000_000), "config.json is larger than"),
    "long model type": (config(model_type="\ud800" * 100_000), "config.json describes a"),
    "list": (config(quantization_config=[1]), "quantization_config is [1]: use an object"),
    "string": (config(quantization_config="int8"), "quantization_config is 'int8': use an object"),
    "long quantization": (config(quantization_config="x" * 4_000_000), "quantization_config is 'xxx"),
    "long template": (text("{% " + "x" * 1_000_000, "chat_template.jinja"), "chat_template.jinja is not a valid Jinja"),
    "unknown quantization": (
        config(quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "\ud800"}),
        "config.json: quantization_config.bnb_4bit_quant_type: ",
    ),
    "brackets": (text("[" * 100_000), "config.json is nested too deeply"),
    "NaN": (text('{"model_type": "baichuan", "hidden_size": NaN}'), "config.json is not valid JSON (NaN"),
    "Infinity": (text('{"model_type": "baichuan", "hidden_size": -Infinity}'), "config.json is not valid JSON"),
    "overflow": (
        text('{"model_type": "baichuan", "hidden_size": 1e999}'),
        "hidden_size is inf: set it to a positive integer",
    ),
    "many digits": (text('{"model_type": "baichuan", "vocab_size": %s}' % ("9" * 400)), "config.json: vocab_size: "),
    "too many digits": (text('{"model_type": "baichuan", "x": %s}' % ("9" * 9000)), "config.json is not valid JSON"),
    "huge eps": (
        config(rms_norm_eps=10**18),
        "config.json does not describe a valid model: rms_norm_eps is 1000000000",
    ),
    "eps of 0": (config(rms_norm_eps=0), "rms_norm_eps is 0: set it to a number above 0, at most 0.1"),
    "negative token": (config(pad_token_id=-5), "pad_token_id is -5: set it to a token id (an integer"),
    "header": (tensors('{"a": "b"}'), "model.safetensors is damaged (its header has no valid dtype, shape and data"),
    "number as text": (config(vocab_size="64000"), "vocab_size is '64000': set it to a positive integer"),
    "true": (config(vocab_size=True), "vocab_size is True: set it to a positive integer"),
    "latin-1": (lambda folder: (folder / "config.json").write_bytes(b"\xe4"), "config.json is not valid JSON"),
    "symlink to itself": (replaced("config.json", lambda path: path.symlink_to(path)), "config.json is a"),
    "dangling symlink": (replaced("model.safetensors", lambda path: path.symlink_to(f"{path}2")), "model.safetensors"),
    "FIFO": (replaced("config.json", os.mkfifo), "config.json is neither a file nor a directory"),
    "FIFO as tokenizer": (replaced("tokenizer.model", os.mkfifo), "tokenizer.model is neither"),
    "FIFO as adapter": (replaced("adapter_config.json", os.mkfifo), "adapter_config.json is neither"),
    "adapter rank": (text('{"peft_type": "LORA", "r": [8]}', "adapter_config.json"), "r is [8]"),
    "adapter NaN": (text('{"lora_alpha": NaN}', "adapter_config.json"), "adapter_config.json is not valid JSON"),
}


def test_unusual_directories_are_rejected_by_name_and_leave_nothing(either_api: Api) -> None:
    api, root = either_api, either_api.settings.allowed_model_roots[0]
    for number, (case, (change, says)) in enumerate(ODD.items()):
        checkpoint(root / str(number))
        change(root / str(number))
        answer = api.client.post("/v1/models", json={"id": "odd", "path": str(root / str(number))})
        problem = problem_of(answer, 422, "invalid_request")
        assert problem["error"]["param"] == "path", case
        assert says in problem["detail"], case
        assert len(problem["detail"]) < 500, case
        problem_of(api.client.get("/v1/models/odd"), 404, "not_found")
    assert api.client.get("/v1/models").json()["data"] == []


def test_registering_a_changed_directory_again_refreshes_its_details(either_api: Api) -> None:
    api = either_api
    api.register_model()
    folder = api.settings.allowed_model_roots[0] / "base"
    before = api.client.get("/v1/models/base").json()
    write_model_files(folder, hidden_size=16, vocab_size=7)
    again = api.client.post("/v1/models", json={"id": "base", "path": str(folder)})
    assert again.status_code == 201
    assert (again.json()["details"]["hidden_size"], again.json()["details"]["vocab_size"]) == (16, 7)
    assert again.json()["created"] == before["created"]
    assert api.client.get("/v1/models/base").json() == again.json()
