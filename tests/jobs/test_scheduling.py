"""Placement: never over capacity, highest priority first, no device idle that could be used, gangs as a whole."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.scheduling import (
    Device,
    HeldResources,
    Machine,
    Requirement,
    Reservation,
    ResidentRunner,
    WaitingJob,
    explain_wait,
    place_jobs,
)
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
    model=st.sampled_from(["", "m", "n"]),
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
    devices = devices or (Device("cpu", 0, host, on_host=True),)
    places = st.lists(st.sampled_from(devices), min_size=0, max_size=2, unique=True)
    residents = draw(st.lists(st.tuples(st.sampled_from(["m", "n"]), places), max_size=3))
    return Machine(
        worker,
        draw(st.frozensets(st.sampled_from(KINDS[:2]), min_size=1)),
        draw(st.integers(0, 5)),
        devices,
        host,
        draw(st.sampled_from([{}, {"room": "a"}, {"room": "b"}])),
        residents=tuple(ResidentRunner(model, tuple(device.uuid for device in where)) for model, where in residents),
    )


pools = st.lists(machine(), max_size=4, unique_by=lambda m: m.worker_id)


@given(waiting_jobs, pools)
def test_nothing_is_oversubscribed(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    done = place_jobs(waiting, pool)
    needs = {job.id: job.requirement for job in waiting}
    for each in pool:
        parts = [(p.job_id, node) for p in done.placements for node in p.nodes if node.worker_id == each.worker_id]
        assert len(parts) <= each.slots
        on_host = 0
        for device in each.devices:
            held = [(job, r.reserved_bytes) for job, node in parts for r in node.devices if r.uuid == device.uuid]
            others = device.used_by_others_bytes if device.is_used_by_others else 0
            assert sum(count for _, count in held) <= device.memory_bytes - (others if held else 0)
            assert all(count >= needs[job].device_memory_bytes for job, count in held)
            if any(needs[job].exclusive for job, _ in held):
                assert len(held) == 1
                assert not device.is_used_by_others
            on_host += sum(count for _, count in held) if device.on_host else 0
        assert on_host + sum(node.host_bytes for _, node in parts) <= each.host_memory_bytes


@given(waiting_jobs, pools)
def test_every_placement_is_whole_and_eligible(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    done = place_jobs(waiting, pool)
    jobs, machines = {job.id: job for job in waiting}, {each.worker_id: each for each in pool}
    assert sorted([p.job_id for p in done.placements] + [job.id for job in done.left]) == sorted(jobs)
    for placement in done.placements:
        job = jobs[placement.job_id]
        assert len({node.worker_id for node in placement.nodes}) == job.requirement.nodes
        for node in placement.nodes:
            assert machines[node.worker_id].is_eligible(job.kind, job.requirement)
            assert len({reserved.uuid for reserved in node.devices}) == job.requirement.devices


@given(waiting_jobs, pools, st.randoms(use_true_random=False))
def test_the_order_of_rows_has_no_effect(
    waiting: list[WaitingJob], pool: list[Machine], chooser: random.Random
) -> None:
    expected = place_jobs(waiting, pool).placements
    jobs, machines = waiting[:], [replace(each, devices=each.devices[::-1]) for each in pool]
    chooser.shuffle(jobs)
    chooser.shuffle(machines)
    assert place_jobs(jobs, machines).placements == expected


@given(waiting_jobs, pools)
def test_no_job_that_fits_waits_and_none_is_overtaken_by_an_equal_one(
    waiting: list[WaitingJob], pool: list[Machine]
) -> None:
    done = place_jobs(waiting, pool)
    placed = {placement.job_id for placement in done.placements}
    after = [replace(room.machine, holdings=tuple(room.holdings)) for room in done.rooms]
    for job in done.left:
        assert not place_jobs([job], after).placements
        rivals = [o for o in waiting if (o.kind, o.requirement) == (job.kind, job.requirement)]
        assert not any(r.id in placed for r in rivals if (-r.priority, r.id) > (-job.priority, job.id))


@given(waiting_jobs, pools)
def test_the_first_job_is_placed_whether_or_not_models_are_loaded(
    waiting: list[WaitingJob], pool: list[Machine]
) -> None:
    """Residents never block a job, and no job waits for one."""
    first = sorted(waiting, key=lambda job: (-job.priority, job.id))[:1]
    cold = [replace(each, residents=()) for each in pool]
    assert len(place_jobs(first, pool).placements) == len(place_jobs(first, cold).placements)


@given(waiting_jobs, pools)
def test_a_job_goes_where_its_model_is_loaded_and_idle(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    for job in waiting:
        need = job.requirement
        if need.nodes > 1 or not need.model:
            continue
        warm = {
            (each.worker_id, resident.devices)
            for each in pool
            for resident in each.residents
            if resident.model == need.model and len(resident.devices) == need.devices
        }
        alone = [
            replace(each, devices=tuple(device for device in each.devices if device.uuid in uuids), residents=())
            for each in pool
            for worker, uuids in warm
            if each.worker_id == worker
        ]
        for placement in place_jobs([job], pool).placements:
            (node,) = placement.nodes
            chosen = node.worker_id, tuple(reserved.uuid for reserved in node.devices)
            possible = any(place_jobs([job], [each]).placements for each in alone)
            assert (chosen in warm) == possible


@given(waiting_jobs, pools)
def test_no_resident_is_given_to_two_jobs(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    """A second job on the model goes to another resident of it, or is placed as if none were loaded."""
    done = place_jobs(waiting, pool)
    for room in done.rooms:
        busy = replace(room.machine, holdings=tuple(room.holdings))
        for job in waiting:
            again = [p for p in place_jobs([replace(job, id="z")], [busy]).placements if job.requirement.model]
            for node in (node for placement in again for node in placement.nodes):
                uuids = tuple(reserved.uuid for reserved in node.devices)
                mine = [r for r in busy.residents if (r.model, r.devices) == (job.requirement.model, uuids)]
                runs = [
                    held
                    for held in busy.holdings
                    if held.model == job.requirement.model and tuple(r.uuid for r in held.devices) == uuids
                ]
                cold = place_jobs([replace(job, id="z")], [replace(busy, residents=())]).placements[0].nodes[0]
                assert len(runs) < len(mine) or node == cold


@given(waiting_jobs, pools)
def test_every_waiting_job_has_an_explanation(waiting: list[WaitingJob], pool: list[Machine]) -> None:
    done = place_jobs(waiting, pool)
    for job in done.left:
        explanation = explain_wait(job, done.rooms)
        assert explanation.message
        assert explanation.worker_id is None or any(explanation.worker_id == each.worker_id for each in pool)


def gpu_machine(worker: str = "gpu-b", slots: int = 8, memories: tuple[int, ...] = (80, 24)) -> Machine:
    devices = tuple(Device(f"{worker}-{index}", index, size * GB) for index, size in enumerate(memories))
    return Machine(worker, frozenset(KINDS), slots, devices, 256 * GB)


def job(name: str, **needs: Any) -> WaitingJob:
    return WaitingJob(name, "generate", 0, Requirement(**needs))


def test_jobs_spread_over_devices_and_the_smallest_sufficient_one_comes_first() -> None:
    waiting = [job("a", reserve_bytes=10 * GB), job("b", reserve_bytes=10 * GB), job("c", reserve_bytes=20 * GB)]
    done = place_jobs(waiting, [gpu_machine()])
    assert [p.nodes[0].devices[0].index for p in done.placements] == [1, 0, 0]


def test_a_loaded_model_is_preferred_to_an_idle_device() -> None:
    warm = replace(gpu_machine(), residents=(ResidentRunner("m", ("gpu-b-0",)),))
    waiting = [job(name, reserve_bytes=10 * GB, model="m") for name in "abc"]
    done = place_jobs(waiting, [gpu_machine("gpu-a"), warm])
    assert [p.nodes[0].devices[0].uuid for p in done.placements] == ["gpu-b-0", "gpu-a-1", "gpu-a-0"]
    assert place_jobs([job("d", reserve_bytes=10 * GB)], [warm]).placements[0].nodes[0].devices[0].uuid == "gpu-b-1"


def test_a_job_reserves_a_smaller_device_as_a_whole() -> None:
    needs = job("a", device_memory_bytes=14 * GB, reserve_bytes=100 * GB)
    done = place_jobs([needs], [gpu_machine(memories=(24,))])
    assert done.placements[0].nodes[0].devices == (Reservation("gpu-b-0", 0, 24 * GB),)


def test_a_worker_that_let_an_attempt_expire_gets_what_no_other_can_take() -> None:
    deaf, well = replace(gpu_machine("deaf"), expired_lately=True), gpu_machine("well", slots=1)
    done = place_jobs([job("1"), job("2")], [deaf, well])
    assert [p.nodes[0].worker_id for p in done.placements] == ["well", "deaf"]


@pytest.mark.parametrize(
    ("waiting", "machines", "message"),
    [
        (job("a"), [], "no worker is running, or all are draining; start one with `baichuan worker`"),
        (
            job("a"),
            [replace(gpu_machine(), kinds=frozenset({"convert"}))],
            "no active worker accepts generate jobs",
        ),
        (
            job("a", device_memory_bytes=90 * GB),
            [gpu_machine()],
            "needs 1 device with 90.00 GiB; the largest device, on gpu-b, has 80.00 GiB available to jobs",
        ),
        (
            job("a", device_memory_bytes=14 * GB, reserve_bytes=30 * GB),
            [
                replace(
                    gpu_machine(memories=(80,)),
                    holdings=(HeldResources("job-1", (Reservation("gpu-b-0", 0, 60 * GB),)),),
                )
            ],
            "needs 1 device with 30.00 GiB; gpu-b has 20.00 GiB free; job-1 holds 60.00 GiB",
        ),
        (
            job("a"),
            [replace(gpu_machine(slots=1), holdings=(HeldResources("job-1"),))],
            "needs a free slot; gpu-b runs 1 of at most 1 jobs (job-1)",
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
    done = place_jobs([waiting], machines)
    assert done.placements == []
    assert explain_wait(waiting, done.rooms).message == message


def test_a_job_goes_to_a_worker_that_has_its_packages() -> None:
    waiting = job("a", packages=("wandb",))
    without = replace(gpu_machine("a"), packages=frozenset())
    unknown = replace(
        gpu_machine("c"), packages=None
    )  # of an earlier release: its run says so if the package is missing
    assert explain_wait(waiting, place_jobs([waiting], [without]).rooms).message == (
        'no worker that could run the job has wandb; run `pip install "baichuan-jobs[wandb]"` on a worker'
    )
    equipped = replace(gpu_machine("b"), packages=frozenset({"mlflow", "wandb"}))
    for other in (equipped, unknown):
        (placement,) = place_jobs([waiting], [without, other]).placements
        assert placement.nodes[0].worker_id == other.worker_id


def test_a_device_that_others_use_is_named() -> None:
    busy = Device("gpu-0", 0, 80 * GB, used_by_others_bytes=75 * GB)
    machine = replace(gpu_machine(), devices=(busy,))
    waiting = job("a", reserve_bytes=10 * GB)
    done = place_jobs([waiting], [machine])
    message = explain_wait(waiting, done.rooms).message
    assert message == (
        "needs 1 device with 10.00 GiB; gpu-b has 5.00 GiB free; processes outside the service use 75.00 GiB"
    )
