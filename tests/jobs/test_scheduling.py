"""Placement: never more than there is, highest first, and nothing idle that could work."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.scheduling import FreeWorker, Placement, WaitingJob, place
from jobs.specs import KINDS

jobs = st.lists(
    st.builds(WaitingJob, st.uuids().map(str), st.sampled_from(KINDS), st.integers(-100, 100)), unique_by=lambda j: j.id
)
workers = st.lists(
    st.builds(FreeWorker, st.uuids().map(str), st.frozensets(st.sampled_from(KINDS)), st.integers(0, 4)),
    unique_by=lambda w: w.id,
    max_size=6,
)


@given(jobs, workers)
def test_placements_fit(waiting: list[WaitingJob], free: list[FreeWorker]) -> None:
    placed = place(waiting, free)
    by_id = {job.id: job for job in waiting}
    assert len({p.job_id for p in placed}) == len(placed)
    for worker in free:
        mine = [p for p in placed if p.worker_id == worker.id]
        assert len(mine) <= worker.slots
        assert all(by_id[p.job_id].kind in worker.kinds for p in mine)


@given(jobs, workers)
def test_nobody_waits_beside_a_free_worker_or_behind_a_lesser_job(
    waiting: list[WaitingJob], free: list[FreeWorker]
) -> None:
    placed = {p.job_id: p.worker_id for p in place(waiting, free)}
    used = {worker.id: list(placed.values()).count(worker.id) for worker in free}
    for job in waiting:
        if job.id in placed:
            continue
        able = [worker for worker in free if job.kind in worker.kinds]
        assert all(used[worker.id] == worker.slots for worker in able)
        rivals = [o for o in waiting if o.kind == job.kind and (-o.priority, o.id) > (-job.priority, job.id)]
        assert not any(rival.id in placed for rival in rivals)


def test_jobs_spread_over_workers() -> None:
    kinds = frozenset({"generate"})
    free = [FreeWorker("a", kinds, 2), FreeWorker("b", kinds, 2)]
    waiting = [WaitingJob("1", "generate", 0), WaitingJob("2", "generate", 0)]
    assert place(waiting, free) == [Placement("1", "a"), Placement("2", "b")]


def test_a_worker_that_let_an_attempt_expire_gets_what_no_other_can_take() -> None:
    kinds = frozenset({"generate"})
    free = [FreeWorker("deaf", kinds, 4, expired_lately=True), FreeWorker("well", kinds, 1)]
    waiting = [WaitingJob("1", "generate", 0), WaitingJob("2", "generate", 0)]
    assert place(waiting, free) == [Placement("1", "well"), Placement("2", "deaf")]
