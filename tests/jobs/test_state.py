"""The transition table equals the one in the document, and has no dead ends."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import IllegalTransitionError
from jobs.state import TRANSITIONS, Event, JobState, find_transition

DOCUMENT = Path(__file__).parents[2] / "docs" / "state_machine.md"


def test_the_document_shows_exactly_the_table() -> None:
    shown = [
        tuple(cell.strip() for cell in line.strip("| \n").split("|"))
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| from", "| ---"))
    ]
    table = [(row.source, row.event, row.guard, row.target, row.attempt or "–") for row in TRANSITIONS]
    assert shown == [tuple(str(cell) for cell in row) for row in table]


@given(st.sampled_from(JobState), st.sampled_from(Event), st.booleans())
def test_at_most_one_row_applies(state: JobState, event: Event, attempts_left: bool) -> None:
    rows = [row for row in TRANSITIONS if row.source is state and row.event is event]
    if not rows:
        with pytest.raises(IllegalTransitionError, match=f"cannot {event} a job that is {state}"):
            find_transition(state, event, attempts_left=attempts_left)
        return
    assert find_transition(state, event, attempts_left=attempts_left) in rows
    guards = [row.guard for row in rows]
    assert len(guards) == len(set(guards))


@pytest.mark.parametrize("state", [state for state in JobState if not state.is_final])
def test_every_state_that_is_not_final_can_reach_a_final_one(state: JobState) -> None:
    reached = {state}
    while True:
        further = reached | {row.target for row in TRANSITIONS if row.source in reached}
        if further == reached:
            break
        reached = further
    assert any(other.is_final for other in reached)


def test_a_running_job_survives_every_kind_of_lost_worker() -> None:
    for event in (Event.LOSE, Event.RELEASE):
        assert find_transition(JobState.RUNNING, event, attempts_left=True).target is JobState.QUEUED
    assert find_transition(JobState.RUNNING, Event.RELEASE, attempts_left=False).target is JobState.QUEUED
