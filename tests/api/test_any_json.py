"""No JSON, however unusual, causes a server error, on either database."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Api

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]), max_size=20)
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["generate", "quantize", "convert", "finetune"]),
    "model": st.sampled_from(["base", "nobody"]) | st.text(),
    "prompts": st.lists(st.text(st.characters(exclude_categories=[]), min_size=1), min_size=1, max_size=3),
    "labels": st.dictionaries(st.from_regex(r"\A[a-z]{1,3}\Z"), st.text(max_size=5), max_size=2),
    "temperature": st.floats(0, 2),
    "seed": st.integers(0, 2**31),
    "stop": st.lists(st.text(st.characters(exclude_categories=[]), min_size=1, max_size=4), max_size=2),
    "output_model": st.from_regex(r"\A[a-z]{1,9}\Z"),
    "target": st.sampled_from(["baichuan1", "safetensors"]),
    "method": st.sampled_from(["int8", "nf4", "lora"]),
    "training_file": st.just("file-" + "0" * 26),
}


def near_specs() -> st.SearchStrategy[dict[str, Any]]:
    """Specs that are valid, nearly valid, or valid except for one field."""
    needed = {name: FIELDS[name] for name in ("kind", "model")}
    right = st.fixed_dictionaries(needed, optional={k: v for k, v in FIELDS.items() if k not in needed})
    spoiled = st.tuples(right, st.sampled_from([*FIELDS, "priority", "max_attempts", "unknown"]), JSON)
    return right | spoiled.map(lambda parts: {**parts[0], parts[1]: parts[2]})


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(JSON | near_specs())
def test_any_json_is_accepted_or_refused(either_api: Api, body: Any) -> None:
    if "base" not in [model["id"] for model in either_api.client.get("/v1/models").json()["data"]]:
        either_api.register_model()
    text = json.dumps(body)
    for path in ("/v1/jobs", "/v1/models", "/v1/keys"):
        answer = either_api.client.post(path, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 201, 202, 400, 409, 422), answer.text
        if answer.status_code == 202:
            assert either_api.client.get(answer.headers["Location"]).json() == answer.json()
