"""Output by line numbers: the end, ranges, and search."""

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.database import now_ms
from jobs.repository import events
from jobs.service import log_lines
from jobs.service.jobs import JobKey
from jobs.service.log_lines import LineSearch
from tests.api.conftest import Api, problem_of


def printed(api: Api, *chunks: Sequence[str]) -> str:
    """A job that has printed these lines, which were recorded in chunks."""
    job: str = api.submit()["id"]
    with api.database.writing() as connection:
        for number, lines in enumerate(chunks):
            stream = "stderr" if number % 2 else "stdout"
            entries: list[tuple[str, dict[str, Any]]] = [
                ("log", {"stream": stream, "lines": list(lines)}),
                ("progress", {"fraction": 0.5}),
            ]
            events.append(connection, job, entries, attempt_id=None, now=now_ms(connection))
    return job


def numbers(answer: dict[str, Any]) -> list[int]:
    return [line["number"] for line in answer["data"]]


def test_a_log_opens_at_its_end_and_is_read_by_ranges(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = printed(api, [f"line {n}" for n in range(1, 4)], [], ["line 4"], [f"line {n}" for n in range(5, 1001)])
    address = f"/v1/jobs/{job}/logs/lines"
    end = api.client.get(address, params={"limit": 10}).json()
    assert (end["total"], end["first"], end["last"]) == (1000, 991, 1000)
    assert numbers(end) == list(range(991, 1001))
    assert [line["text"] for line in end["data"]] == [f"line {n}" for n in range(991, 1001)]
    middle = api.client.get(address, params={"first": 3, "limit": 3}).json()
    assert [(line["number"], line["stream"], line["text"]) for line in middle["data"]] == [
        (3, "stdout", "line 3"),
        (4, "stdout", "line 4"),
        (5, "stderr", "line 5"),
    ]
    beyond = api.client.get(address, params={"first": 1001}).json()
    assert (beyond["total"], beyond["first"], beyond["data"]) == (1000, None, [])
    assert api.client.get(f"/v1/jobs/{job}/logs").text.splitlines()[999] == "line 1000"
    silent = printed(api)
    assert api.client.get(f"/v1/jobs/{silent}/logs/lines").json()["total"] == 0
    problem_of(api.client.get("/v1/jobs/job-x/logs/lines"), 404, "not_found")


def test_search_goes_both_ways_with_context(either_api: Api) -> None:
    api = either_api
    api.register_model()
    job = printed(api, ["a", 'say "Loss" 50%'], ["b", "损失 loss_1", "c"], ["LOSS", "d\\n"])

    def search(query: str, **fields: Any) -> tuple[int, int, list[int]]:
        answer = api.client.get(f"/v1/jobs/{job}/logs/search", params={"query": query, **fields}).json()
        return answer["count"], answer["position"], [match["line"]["number"] for match in answer["data"]]

    assert search("loss") == (1, 1, [4])
    assert search("loss", ignore_case=True, limit=10) == (3, 1, [2, 4, 6])
    assert search("loss", ignore_case=True, start=3) == (3, 2, [4])
    assert search("loss", ignore_case=True, start=5, direction="previous") == (3, 2, [4])
    assert search("loss", ignore_case=True, direction="previous", limit=2) == (3, 3, [6, 4])
    assert search("损失") == (1, 1, [4])
    assert search('"Loss" 50%') == (1, 1, [2])
    assert search("_") == (1, 1, [4])
    assert search("\\n") == (1, 1, [7])
    assert search("nowhere") == (0, 0, [])
    match = api.client.get(f"/v1/jobs/{job}/logs/search", params={"query": "LOSS", "context": 2}).json()["data"][0]
    assert [line["number"] for line in match["before"]] == [4, 5]
    assert [line["text"] for line in match["after"]] == ["d\\n"]


LINES = st.text(st.sampled_from("ab%_\\\"'错 "), max_size=4)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(LINES, max_size=5), max_size=5),
    st.text(st.sampled_from("ab%_\\\"'错 "), min_size=1, max_size=2),
    st.sampled_from(["next", "previous"]),
    st.none() | st.integers(1, 26),
)
def test_search_finds_what_a_loop_finds(
    shared_api: Api, chunks: list[list[str]], text: str, direction: Any, start: int | None
) -> None:
    job = printed(shared_api, *chunks)
    lines = [line for chunk in chunks for line in chunk]
    found = [number for number, line in enumerate(lines, start=1) if text in line]
    with shared_api.database.reading() as connection:
        key = JobKey(shared_api.client.get(f"/v1/jobs/{job}").json()["project"], job)
        from jobs.repository.jobs import get_many  # noqa: PLC0415 - only here

        key = JobKey(get_many(connection, [job])[job].project_id, job)
        wanted = LineSearch(text, start, direction, ignore_case=False, limit=3, context=1)
        matches = log_lines.search_lines(connection, key, wanted)
    if direction == "next":
        expected = [number for number in found if number >= (start or 1)][:3]
    else:
        expected = [number for number in reversed(found) if number <= (start or len(lines))][:3]
    assert matches.count == len(found)
    assert [match.line.number for match in matches.found] == expected
    for match in matches.found:
        around = [*match.before, match.line, *match.after]
        assert [line.text for line in around] == lines[max(0, match.line.number - 2) : match.line.number + 1]
