"""Memory estimates of jobs before they are submitted."""

from typing import Any

from sqlalchemy import update

from footprint import PRESETS, Precision
from jobs.database.tables import Model
from tests.api.conftest import Api, problem_of
from tests.model_files import write_model_files

SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 125_696,
    "max_position_embeddings": 4096,
    "norm_head": True,
}


def register(api: Api, name: str, **config: Any) -> None:
    """Register a directory whose configuration is that of Baichuan2-7B."""
    folder = api.settings.allowed_model_roots[0] / name
    write_model_files(folder, **SIZES, **config)
    made = api.client.post("/v1/models", json={"id": name, "path": str(folder)})
    assert made.status_code == 201, made.text


def test_the_parts_of_an_estimate_sum_up(either_api: Api) -> None:
    api = either_api
    register(api, "chat")
    spec = {"kind": "generate", "model": "chat", "prompts": ["你好"], "max_new_tokens": 62}
    answer = api.client.post("/v1/estimates", json=spec)
    estimate = answer.json()
    assert (answer.status_code, estimate["object"], estimate["place"]) == (200, "estimate", "device")
    weights = Precision().weight_bytes(PRESETS["baichuan2-7b"])
    assert (estimate["weights_bytes"], estimate["least_bytes"]) == (weights, weights)
    assert estimate["cache_bytes"] == 2 * 32 * 64 * 4096 * 2
    parts = ("weights_bytes", "cache_bytes", "activations_bytes", "gradients_bytes", "optimizer_bytes")
    assert estimate["total_bytes"] == sum(estimate[part] for part in parts)
    assert api.client.get("/v1/jobs").json()["data"] == []


def test_a_quantized_model_is_estimated_in_its_own_format(api: Api) -> None:
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    register(api, "nf4", quantization_config=settings)
    spec = {"kind": "generate", "model": "nf4", "prompts": ["x"]}
    held = api.client.post("/v1/estimates", json=spec).json()["weights_bytes"]
    assert held == Precision(quantization="nf4").weight_bytes(PRESETS["baichuan2-7b"])


def test_the_larger_of_two_models_counts(api: Api) -> None:
    register(api, "whole")
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    register(api, "small", quantization_config=settings)
    spec = {"kind": "evaluate", "model": "small", "benchmark": "mmlu", "data_file": "file-" + "0" * 26}
    weights = [
        api.client.post("/v1/estimates", json={**spec, **other}).json()["weights_bytes"]
        for other in ({}, {"compare_with": "whole"})
    ]
    shape = PRESETS["baichuan2-7b"]
    assert weights == [Precision(quantization="nf4").weight_bytes(shape), Precision().weight_bytes(shape)]
    problem = problem_of(api.client.post("/v1/estimates", json={**spec, "compare_with": "x"}), 422, "unknown_model")
    assert problem["error"]["param"] == "compare_with"


def test_unknown_models_and_sizes_are_refused(api: Api) -> None:
    spec = {"kind": "quantize", "model": "nobody"}
    problem = problem_of(api.client.post("/v1/estimates", json=spec), 422, "unknown_model")
    assert problem["error"]["param"] == "model"
    api.register_model("sizeless")
    with api.database.writing() as connection:  # as registered by an earlier version
        connection.execute(update(Model).where(Model.id == "sizeless").values(details={}))
    answer = api.client.post("/v1/estimates", json={**spec, "model": "sizeless"})
    assert "register it again" in problem_of(answer, 422, "invalid_request")["detail"]
    assert api.client.post("/v1/estimates", json={"kind": "quantize"}).status_code == 422


def test_a_job_that_loads_no_weights_has_no_estimate_and_can_be_submitted(api: Api) -> None:
    register(api, "chat")
    pull = {"kind": "pull", "repository": "baichuan-inc/Tiny", "output_model": "tiny"}
    preview = {"kind": "preview", "model": "chat", "training_file": "file-" + "0" * 26}
    for spec in (pull, preview):
        refused = api.client.post("/v1/estimates", json=spec)
        assert problem_of(refused, 422, "invalid_request")["error"]["param"] == "kind"
    dry = api.client.post("/v1/jobs", json=pull, params={"dry_run": "true"})
    assert (dry.status_code, dry.json()["estimate"], dry.json()["requirements"]["devices"]) == (200, None, 0)
    job = api.client.post("/v1/jobs", json=pull).json()
    assert (job["source_model"], job["model"], job["spec"]["revision"]) == ("baichuan-inc/Tiny", "tiny", "main")
