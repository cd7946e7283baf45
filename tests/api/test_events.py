"""A job's log: pages, event streams that continue and resume, and plain text."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx

from tests.api.conftest import Api, problem_of

STREAM = {"Accept": "text/event-stream"}


def read_stream(answer: httpx.Response) -> list[dict[str, str]]:
    """The events of a finished stream."""
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return [
        dict(line.split(": ", 1) for line in block.splitlines())
        for block in answer.text.split("\n\n")
        if block and not block.startswith(":")
    ]


def finished_job(api: Api, lines: int = 3) -> str:
    """A job that printed some lines and succeeded."""
    api.register_model()
    job: str = api.submit()["id"]
    attempt = api.start(job)
    api.report(attempt, *(f"line {n}" for n in range(lines)), progress={"fraction": 1.0, "stage": "x", "metrics": {}})
    api.finish(job, attempt, {"report.json": b"{}"})
    return job


def test_events_are_ordered_and_paged(either_api: Api) -> None:
    api = either_api
    job = finished_job(api)
    everything = api.client.get(f"/v1/jobs/{job}/events").json()
    assert [e["type"] for e in everything["data"]] == ["state"] * 3 + ["log"] * 3 + ["progress", "state"]
    assert [e["sequence"] for e in everything["data"]] == list(range(1, 9))
    assert [e["id"] for e in everything["data"]] == [str(n) for n in range(1, 9)]
    assert everything["data"][0]["data"] == {"from": None, "to": "queued", "event": "submit"}
    assert (everything["has_more"], everything["last_id"]) == (False, "8")
    part = api.client.get(f"/v1/jobs/{job}/events?after=2&limit=2").json()
    assert ([e["id"] for e in part["data"]], part["has_more"]) == (["3", "4"], True)
    logs = api.client.get(f"/v1/jobs/{job}/events?type=log&after=4").json()
    assert [e["data"]["lines"] for e in logs["data"]] == [["line 1"], ["line 2"]]
    wrong = api.client.get(f"/v1/jobs/{job}/events?after=99999999999999999999")
    assert problem_of(wrong, 422, "invalid_request")["error"]["param"] == "after"


def test_a_stream_of_a_finished_job_has_all_events_and_ends(api: Api) -> None:
    job = finished_job(api, lines=250)
    told = read_stream(api.client.get(f"/v1/jobs/{job}/events", headers=STREAM))
    assert [event["id"] for event in told] == [str(n) for n in range(1, 256)]
    assert told[0]["event"] == "state"
    resumed = read_stream(api.client.get(f"/v1/jobs/{job}/events", headers={**STREAM, "Last-Event-ID": "253"}))
    assert [event["id"] for event in resumed] == ["254", "255"]
    states = read_stream(api.client.get(f"/v1/jobs/{job}/events?type=state", headers=STREAM))
    assert [event["id"] for event in states] == ["1", "2", "3", "255"]


def test_a_stream_follows_a_job_until_its_end(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]

    def play() -> None:
        attempt = api.start(job)
        api.report(attempt, "hello")
        api.finish(job, attempt, {"report.json": b"{}"})

    worker = threading.Thread(target=play)
    seen: list[str] = []
    with api.client.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                seen.append(line.removeprefix("id: "))
                if len(seen) == 1:
                    worker.start()
    worker.join()
    assert seen == ["1", "2", "3", "4", "5"]


def test_a_silent_stream_sends_comments_and_ends_when_the_server_stops(api: Api) -> None:
    api.register_model()
    job = api.submit()["id"]
    object.__setattr__(api.app.state.service.settings, "stream_idle_seconds", 0.01)
    with api.client.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as answer:
        lines: Iterator[str] = answer.iter_lines()
        while next(lines) != ": still here":
            pass
        api.app.state.service.closing.set()
        assert "id: 2" not in list(lines)


def test_a_stream_ends_soon_after_its_key_is_revoked(api: Api) -> None:
    api.register_model()
    job = api.submit()["id"]
    key = api.client.post("/v1/keys", json={"name": "guest", "project": "default"}).json()
    object.__setattr__(api.app.state.service.settings, "stream_idle_seconds", 0.01)
    with (
        api.client_for(key["secret"]) as guest,
        guest.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as answer,
    ):
        lines: Iterator[str] = answer.iter_lines()
        assert next(lines) == "id: 1"
        api.client.delete(f"/v1/keys/{key['id']}").raise_for_status()
        assert "id: 2" not in list(lines)


def test_logs_are_read_from_where_the_last_answer_ended(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = api.submit()["id"]
    attempt = api.start(job)
    api.report(attempt, "first", "zwölf 苹果")
    answer = api.client.get(f"/v1/jobs/{job}/logs")
    assert answer.text == "first\nzwölf 苹果\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    api.report(attempt, *(f"line {n}" for n in range(450)))
    more = api.client.get(f"/v1/jobs/{job}/logs", params={"after": answer.headers["X-Last-Sequence"]})
    assert more.text.splitlines() == [f"line {n}" for n in range(450)]
    nothing: dict[str, Any] = {"after": more.headers["X-Last-Sequence"]}
    assert api.client.get(f"/v1/jobs/{job}/logs", params=nothing).text == ""
