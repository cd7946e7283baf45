"""Placement: never more than there is, highest priority first, nothing idle that could work, whole gangs or none."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.scheduling import Device, Holding, Machine, Requirement, Reservation, WaitingJob, explain, place
from jobs.specs import KINDS

GB = 2**30
sizes = st.sampled_from([0, 1, 5, 10, 24, 40, 80]).map(lambda n: n * GB)
requirements = st.builds(
    Requirement,
    nodes=st.integers(1, 3),
    devices=st.integers(0, 3),
    device_memory_bytes=sizes,
    reserve_bytes=sizes,
    host_memory_bytes=sizes,
    exclusive=st.booleans(),
    labels=st.sampled_from([(), (), (("room", "a"),)]),
)
waiting_jobs = st.lists(
    st.builds(WaitingJob, st.uuids().map(str), st.sampled_from(KINDS[:2]), st.integers(-2, 2), requirements),
    unique_by=lambda job: job.id,
    max_size=12,
)


@st.composite
def machine(draw: st.DrawFn) -> Machine:
    """A machine with GPUs, or with a CPU as its only device."""
    worker = str(draw(st.uuids()))
    host = draw(st.sampled_from([16, 64, 256])) * GB
    memories = draw(st.lists(st.sampled_from([8, 24, 80]), max_size=4))
    devices = tuple(
        Device(f"{worker}-{i}", i, size * GB, draw(st.sampled_from([0, 0, GB // 2, 6 * GB])))
        for i, size in enumerate(memories)
    )
    return Machine(
        worker,
        draw(st.frozensets(st.sampled_from(KINDS[:2]), min_size=1)),
        draw(st.integers(0, 5)),
        devices or (Device("cpu", 0, host, on_host=True),),
        host,
        draw(st.sampled_from([{}, {"room": "a"}, {"room": "b"}])),
    )


pools = st.lists(machine(), max_size=4, unique_by=lambda m: m.worker_id)


@given(waiting_jobs, pools)
def test_nothing_is_oversubscribed(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    done = place(waiting, pool)
    needs = {job.id: job.requirement for job in waiting}
    for each in pool:
        parts = [(p.job_id, node) for p in done.placements for node in p.nodes if node.worker_id == each.worker_id]
        assert len(parts) <= each.slots
        on_host = 0
        for device in each.devices:
            held = [(job, r.reserved_bytes) for job, node in parts for r in node.devices if r.uuid == device.uuid]
            others = device.used_by_others_bytes if device.used_by_others else 0
            assert sum(count for _, count in held) <= device.memory_bytes - (others if held else 0)
            assert all(count >= needs[job].device_memory_bytes for job, count in held)
            if any(needs[job].exclusive for job, _ in held):
                assert len(held) == 1
                assert not device.used_by_others
            on_host += sum(count for _, count in held) if device.on_host else 0
        assert on_host + sum(node.host_bytes for _, node in parts) <= each.host_memory_bytes


@given(waiting_jobs, pools)
def test_every_placement_is_whole_and_eligible(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    done = place(waiting, pool)
    jobs, machines = {job.id: job for job in waiting}, {each.worker_id: each for each in pool}
    assert sorted([p.job_id for p in done.placements] + [job.id for job in done.left]) == sorted(jobs)
    for placement in done.placements:
        job = jobs[placement.job_id]
        assert len({node.worker_id for node in placement.nodes}) == job.requirement.nodes
        for node in placement.nodes:
            assert machines[node.worker_id].is_eligible(job.kind, job.requirement)
            assert len({reserved.uuid for reserved in node.devices}) == job.requirement.devices


@given(waiting_jobs, pools, st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(
    waiting: list[WaitingJob], pool: list[Machine], chooser: random.Random
) -> None:
    expected = place(waiting, pool).placements
    jobs, machines = waiting[:], [replace(each, devices=each.devices[::-1]) for each in pool]
    chooser.shuffle(jobs)
    chooser.shuffle(machines)
    assert place(jobs, machines).placements == expected


@given(waiting_jobs, pools)
def test_no_job_waits_that_would_fit_and_none_is_passed_by_its_equal(
    waiting: list[WaitingJob], pool: list[Machine]
) -> None:
    done = place(waiting, pool)
    placed = {placement.job_id for placement in done.placements}
    after = [replace(room.machine, holdings=tuple(room.holdings)) for room in done.rooms]
    for job in done.left:
        assert not place([job], after).placements
        rivals = [o for o in waiting if (o.kind, o.requirement) == (job.kind, job.requirement)]
        assert not any(r.id in placed for r in rivals if (-r.priority, r.id) > (-job.priority, job.id))


@given(waiting_jobs, pools)
def test_every_waiting_job_has_an_explanation(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    done = place(waiting, pool)
    for job in done.left:
        explanation = explain(job, done.rooms)
        assert explanation.message
        assert explanation.worker_id is None or any(explanation.worker_id == each.worker_id for each in pool)


def gpu_machine(worker: str = "gpu-b", slots: int = 8, memories: tuple[int, ...] = (80, 24)) -> Machine:
    devices = tuple(Device(f"{worker}-{index}", index, size * GB) for index, size in enumerate(memories))
    return Machine(worker, frozenset(KINDS), slots, devices, 256 * GB)


def job(name: str, **needs: int | bool) -> WaitingJob:
    return WaitingJob(name, "generate", 0, Requirement(**needs))  # type: ignore[arg-type]


def test_jobs_spread_over_devices_and_the_smallest_sufficient_one_comes_first() -> None:
    waiting = [job("a", reserve_bytes=10 * GB), job("b", reserve_bytes=10 * GB), job("c", reserve_bytes=20 * GB)]
    done = place(waiting, [gpu_machine()])
    assert [p.nodes[0].devices[0].index for p in done.placements] == [1, 0, 0]


def test_a_job_reserves_a_smaller_device_as_a_whole() -> None:
    needs = job("a", device_memory_bytes=14 * GB, reserve_bytes=100 * GB)
    done = place([needs], [gpu_machine(memories=(24,))])
    assert done.placements[0].nodes[0].devices == (Reservation("gpu-b-0", 0, 24 * GB),)


def test_a_worker_that_let_an_attempt_expire_gets_what_no_other_can_take() -> None:
    deaf, well = replace(gpu_machine("deaf"), expired_lately=True), gpu_machine("well", slots=1)
    done = place([job("1"), job("2")], [deaf, well])
    assert [p.nodes[0].worker_id for p in done.placements] == ["well", "deaf"]


@pytest.mark.parametrize(
    ("waiting", "machines", "message"),
    [
        (job("a"), [], "no worker is running, or all are draining; start one with `baichuan worker`"),
        (
            job("a"),
            [replace(gpu_machine(), kinds=frozenset({"convert"}))],
            "no worker that is running and not draining takes generate jobs",
        ),
        (
            job("a", device_memory_bytes=90 * GB),
            [gpu_machine()],
            "needs 1 device with 90.00 GiB; the largest device, on gpu-b, has 80.00 GiB for jobs",
        ),
        (
            job("a", device_memory_bytes=14 * GB, reserve_bytes=30 * GB),
            [replace(gpu_machine(memories=(80,)), holdings=(Holding("job-1", (Reservation("gpu-b-0", 0, 60 * GB),)),))],
            "needs 1 device with 30.00 GiB; gpu-b has 20.00 GiB free; job-1 holds 60.00 GiB",
        ),
        (
            job("a"),
            [replace(gpu_machine(slots=1), holdings=(Holding("job-1"),))],
            "needs a free place; gpu-b runs 1 of at most 1 jobs (job-1)",
        ),
        (
            job("a", devices=4, device_memory_bytes=10 * GB),
            [gpu_machine()],
            "needs 4 devices with 10.00 GiB each; gpu-b has 2 such devices in all",
        ),
        (
            job("a", nodes=2, reserve_bytes=GB),
            [gpu_machine()],
            "needs 2 machines with 1 device with 1.00 GiB each; 1 of 1 have that free",
        ),
    ],
)
def test_explanations_name_need_candidate_and_holders(
    waiting: WaitingJob, machines: list[Machine], message: str
) -> None:
    done = place([waiting], machines)
    assert done.placements == []
    assert explain(waiting, done.rooms).message == message


def test_a_device_that_others_use_is_named() -> None:
    busy = Device("gpu-0", 0, 80 * GB, used_by_others_bytes=75 * GB)
    machine = replace(gpu_machine(), devices=(busy,))
    waiting = job("a", reserve_bytes=10 * GB)
    done = place([waiting], [machine])
    message = explain(waiting, done.rooms).message
    assert message == (
        "needs 1 device with 10.00 GiB; gpu-b has 5.00 GiB free; processes outside the service use 75.00 GiB"
    )
