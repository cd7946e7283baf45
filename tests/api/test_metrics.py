"""Metrics of runs: every logged step, or downsampled without losing peaks, live and from the artifact."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.service.metrics import MetricWindow, Point, downsample_points, parse_series, record, to_point
from tests.api.conftest import Api, problem_of
from tests.jobs.pool import hold


def log_steps(api: Api, attempt: str, points: list[Point]) -> None:
    with api.database.writing() as connection:
        hold(connection, attempt, "wrk-1", api.settings).renew(None, [], points)


def read(api: Api, job: str, **query: Any) -> dict[str, Any]:
    answer = api.client.get(f"/v1/jobs/{job}/metrics", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def series(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [each for each in found["series"] if each["name"] == name]
    return dict(one)


def test_a_spike_of_one_step_and_a_nan_survive_at_every_zoom(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    attempt = api.start(job)
    points = [Point(step, {"loss": 2.0 - step / 10_000, "grad_norm": 1.0}) for step in range(1, 10_001)]
    points[5_000] = Point(5_001, {"loss": 99.0, "grad_norm": None})
    log_steps(api, attempt, points[:6_000])
    log_steps(api, attempt, points[6_000:])
    for buckets in (1, 7, 100, 5000):
        found = read(api, job, buckets=buckets)
        loss, norm = series(found, "loss"), series(found, "grad_norm")
        assert (found["source"], found["names"]) == ("live", ["grad_norm", "loss"])
        assert (found["first_step"], found["last_step"]) == (1, 10_000)
        assert len(loss["min"]) == buckets
        assert (max(loss["max"]), min(loss["min"]), sum(loss["count"])) == (99.0, 1.0, 10_000)
        assert (sum(norm["nan"]), norm["points"]) == (1, 10_000)
    near = read(api, job, start=4_999, stop=5_004, names="grad_norm")
    assert [each["name"] for each in near["series"]] == ["grad_norm"]
    norm = series(near, "grad_norm")
    assert norm["first_step"] == norm["last_step"] == [4999, 5000, 5001, 5002, 5003]
    assert (norm["min"], norm["nan"]) == ([1.0, 1.0, None, 1.0, 1.0], [0, 0, 1, 0, 0])
    assert read(api, job, start=20_000)["series"][0]["count"] == []


def test_a_resumed_run_replaces_the_steps_that_it_repeats(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    first = api.start(job)
    log_steps(api, first, [Point(step, {"loss": 1.0}) for step in range(1, 9)])
    from jobs.state import Event  # noqa: PLC0415 - only here

    with api.database.writing() as connection:
        hold(connection, first, "wrk-1", api.settings).end(Event.RELEASE)
    second = api.start(job)
    log_steps(api, second, [Point(5, {"loss": 2.0}), Point(5, {"eval_loss": 3.0})])
    log_steps(api, second, [Point(6, {"loss": 2.0})])
    loss = series(read(api, job), "loss")
    assert (loss["first_step"], loss["mean"]) == ([1, 2, 3, 4, 5, 6], [1.0] * 4 + [2.0] * 2)
    api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    with api.database.writing() as connection:
        hold(connection, second, "wrk-1", api.settings).end(Event.STOP)
    api.client.delete(f"/v1/jobs/{job}").raise_for_status()
    problem_of(api.client.get(f"/v1/jobs/{job}/metrics"), 404, "not_found")


def test_a_run_of_which_only_the_artifact_is_left(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    attempt = api.start(job)
    assert read(api, job)["source"] == "none"
    entries = [{"loss": 1.0 / step, "epoch": 0.5, "step": step} for step in range(1, 101)]
    entries.insert(50, {"eval_loss": math.nan, "step": 50})
    content = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    api.finish(job, attempt, {"training/series.jsonl": content})
    found = read(api, job, buckets=10)
    assert (found["source"], found["names"], found["last_step"]) == ("artifact", ["epoch", "eval_loss", "loss"], 100)
    assert series(found, "loss")["count"] == [10] * 10
    assert series(found, "eval_loss")["nan"] == [1]
    assert series(found, "eval_loss")["max"] == [None]


def test_invalid_ranges_are_rejected(shared_api: Api) -> None:
    job = shared_api.submit()["id"]
    for query in ({"buckets": 0}, {"buckets": 5001}, {"names": "a,"}, {"start": -1}):
        problem_of(shared_api.client.get(f"/v1/jobs/{job}/metrics", params=query), 422, "invalid_request")


def test_only_reports_with_a_step_are_points() -> None:
    assert to_point({"fraction": 1.0}) is None
    assert to_point({"step": 3.0, "steps": 10.0, "eta_seconds": 5.0}) is None
    assert to_point({"step": 3.0, "loss": math.inf}) == Point(3, {"loss": None})
    assert parse_series([b'{"step": 1, "loss": NaN}', b""]) == [Point(1, {"loss": None})]


@given(
    st.dictionaries(st.integers(0, 60), st.none() | st.floats(-1e6, 1e6), min_size=1),
    st.integers(1, 12),
    st.none() | st.integers(0, 60),
    st.none() | st.integers(1, 70),
)
def test_downsampling_in_sql_and_in_memory_agree(
    shared_api: Api, values: dict[int, float | None], buckets: int, start: int | None, stop: int | None
) -> None:
    from jobs.repository.jobs import get_many  # noqa: PLC0415 - only here
    from jobs.service.jobs import JobKey  # noqa: PLC0415
    from jobs.service.metrics import read as read_sql  # noqa: PLC0415

    job, window = shared_api.submit()["id"], MetricWindow([], start, stop, buckets)
    points = [Point(step, {"loss": value}) for step, value in values.items()]
    with shared_api.database.writing() as connection:
        record(connection, job, 1, points)
        key = JobKey(get_many(connection, [job])[job].project_id, job)
        found = read_sql(connection, key, window)
    expected = downsample_points(points, window)
    assert found is not None
    assert (found.start, found.stop) == (expected.start, expected.stop)
    (ours,), (theirs,) = found.series, expected.series
    for name in ("first_step", "last_step", "count", "nan", "min", "max"):
        assert getattr(ours, name) == getattr(theirs, name), name
    inside = [value for step, value in values.items() if expected.start <= step < expected.stop and value is not None]
    peaks = [value for value in ours.max if value is not None]
    assert (max(peaks) if peaks else None) == (max(inside) if inside else None)
