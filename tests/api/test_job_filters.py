"""Filters of lists and counts: over all rows, in SQL."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.specs.searchable import MAX_VALUE_LENGTH, build_search_lines, build_searchable_fields
from tests.api.conftest import Api, problem_of


def listed(api: Api, **query: Any) -> list[str]:
    answer = api.client.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


def counted(api: Api, **query: Any) -> dict[str, int]:
    answer = api.client.get("/v1/jobs/counts", params=query).json()
    assert answer["total"] == sum(answer["states"].values())
    return {state: count for state, count in answer["states"].items() if count}


def failed_job(api: Api, message: str, **fields: Any) -> str:
    from jobs.state import Event  # noqa: PLC0415 - only here
    from tests.jobs.pool import hold  # noqa: PLC0415

    job: str = api.submit(**fields)["id"]
    attempt = api.start(job)
    with api.database.writing() as connection:
        held = hold(connection, attempt, "wrk-1", api.settings)
        held.end(Event.FAIL, {"code": "out_of_memory", "message": message})
    return job


def test_every_condition_alone_and_together(either_api: Api) -> None:
    api = either_api
    api.register_model()
    nf4 = api.submit(method="nf4", labels={"team": "a"})["id"]
    int8 = api.submit(method="int8", labels={"team": "b"})["id"]
    tuned = api.submit(kind="generate", prompts=["你好", "hello"], temperature=0.5)["id"]
    broken = failed_job(api, "GPU 0 has 10% left; Needs 5_GB", method="nf4")
    other = api.client.post("/v1/keys", json={"name": "night run", "project": "default"}).json()["secret"]
    with api.client_for(other) as client:
        nightly = api.submit(client, method="nf4")["id"]
    assert listed(api) == [nightly, broken, tuned, int8, nf4]
    assert listed(api, state="failed") == [broken]
    assert listed(api, state="failed,queued") == [nightly, broken, tuned, int8, nf4]
    assert listed(api, kind="generate") == [tuned]
    assert listed(api, label="team:b") == [int8]
    assert listed(api, field="method:nf4") == [nightly, broken, nf4]
    assert listed(api, field="method:NF4") == []
    assert listed(api, field="temperature:5e-1") == [tuned]
    assert listed(api, field="prompts:你好") == [tuned]
    assert listed(api, field="labels.team:a") == [nf4]
    for part in ("out_of_memory", "gpu 0 has 10% left", "needs 5_gb"):
        assert listed(api, error=part) == [broken]
    assert listed(api, error="5GB") == listed(api, error="1_%") == []
    assert listed(api, id=int8) == [int8]
    assert listed(api, id="job-") == listed(api)
    assert listed(api, submitter="night run") == [nightly]
    assert listed(api, submitter="first key", state="queued", field="method:nf4") == [nf4]
    assert listed(api, created_after=0, created_before=10**10) == listed(api)
    assert listed(api, created_before=5) == []
    assert listed(api, field="method:nf4", after=nightly, limit=1) == [broken]
    assert counted(api) == {"queued": 4, "failed": 1}
    assert counted(api, field="method:nf4") == {"queued": 2, "failed": 1}
    assert counted(api, error="memory") == {"failed": 1}
    shown = api.client.get(f"/v1/jobs/{nightly}").json()
    assert (shown["submitter"], shown["state"]) == ("night run", "queued")
    api.client.post(f"/v1/jobs/{broken}/retry").raise_for_status()
    assert listed(api, error="memory") == []


@pytest.mark.parametrize(
    "query",
    [
        {"state": "asleep"},
        {"state": "failed,"},
        {"field": "method"},
        {"field": "method:" + "x" * (MAX_VALUE_LENGTH + 1)},
        {"error": ""},
        {"id": "job_"},
        {"created_after": -1},
    ],
)
def test_a_condition_that_cannot_be_met_by_any_job_is_refused(shared_api: Api, query: dict[str, Any]) -> None:
    name = next(iter(query))
    assert problem_of(shared_api.client.get("/v1/jobs", params=query), 422, "invalid_request")["error"]["param"] == name
    problem_of(shared_api.client.get("/v1/jobs/counts", params=query), 422, "invalid_request")


SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), SCALARS | st.text(max_size=20), max_size=6))
def test_every_scalar_of_a_spec_is_found_by_its_value(spec: dict[str, Any]) -> None:
    fields = build_searchable_fields(spec)
    for name, value in spec.items():
        if isinstance(value, str):
            spelled = value
        elif isinstance(value, bool) or value is None:
            spelled = {True: "true", False: "false", None: "null"}[value]
        else:
            spelled = repr(value)
        if "\n" not in spelled:
            assert any(line in fields for line in build_search_lines(name, spelled)), (name, value, fields)
        assert not any(line in fields for line in build_search_lines(name, f"{spelled}x"))
