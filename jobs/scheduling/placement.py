"""Decisions on which waiting jobs start now, and on which devices of which machines."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.scheduling.machine import FreeCapacity, HeldResources, Machine, Reservation, list_free_capacity
from jobs.scheduling.requirement import Requirement


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job that could start now."""

    id: str
    kind: str
    priority: int
    requirement: Requirement


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """The part of a job that runs on one machine."""

    worker_id: str
    devices: tuple[Reservation, ...]
    host_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """One decision: a job and where it runs, with one entry per node."""

    job_id: str
    nodes: tuple[NodePlacement, ...]
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class PlacementRound:
    """The result of one round of placement: the decisions, the jobs still waiting, and the resources still free."""

    placements: Sequence[Placement]
    left: Sequence[WaitingJob]
    rooms: Sequence[FreeCapacity]


def place_jobs(waiting: Sequence[WaitingJob], machines: Sequence[Machine]) -> PlacementRound:
    """Place jobs by priority and then by age.

    Ids increase monotonically, so sorting by id sorts by age. A job that does not fit now does not block those
    behind it. A job goes where its model is loaded and idle, if it fits there now, but never waits for such a place.
    Otherwise jobs are spread: each goes to the devices that run the fewest other jobs, then to the machine with the
    most free slots. Workers that let an attempt expire recently come last, because a worker without a connection to the
    broker would otherwise take jobs and not start them while others are idle.

    Example:
        A machine has two idle devices: device 0 with 80 GB and device 1 with 24 GB.
        A job of 10 GB goes to device 1, the smaller one; a second job of 10 GB goes to device 0, which is still idle.
        A third job, of 20 GB, also goes to device 0, because only 14 GB are left on device 1.
    """
    rooms = list_free_capacity(machines)
    placements, left = [], []
    # Skip a job if one with the same kind and requirement could not be placed: room only shrinks during a round.
    hopeless: set[tuple[str, Requirement]] = set()
    for job in sorted(waiting, key=lambda job: (-job.priority, job.id)):
        same = (job.kind, job.requirement)
        placement = None if same in hopeless else _place_job(job, rooms)
        if placement is None:
            left.append(job)
            hopeless.add(same)
        else:
            placements.append(placement)
    return PlacementRound(placements, left, rooms)


def _place_job(job: WaitingJob, rooms: Sequence[FreeCapacity]) -> Placement | None:
    """Reserve a place for one job, if enough machines have room for it."""
    able = []
    for room in rooms:
        if room.free_slots > 0 and room.machine.is_eligible(job.kind, job.requirement):
            chosen = room.choose_devices(job.requirement)
            if chosen is not None:
                able.append((_build_placement_sort_key(room, chosen, job.requirement.model), room, chosen))
    if len(able) < job.requirement.nodes:
        return None
    able.sort(key=lambda each: each[0])
    nodes = []
    for _, room, chosen in able[: job.requirement.nodes]:
        need = job.requirement
        room.reserve(HeldResources(job.id, chosen, need.host_memory_bytes, need.exclusive, need.model))
        nodes.append(NodePlacement(room.machine.worker_id, chosen, job.requirement.host_memory_bytes))
    return Placement(job.id, tuple(nodes), job.requirement.exclusive)


def _build_placement_sort_key(
    room: FreeCapacity, chosen: Sequence[Reservation], model: str
) -> tuple[bool, bool, int, int, str]:
    """Return the sort key of a possible place; the place with the smallest key is best.

    Example:
        Three workers could run a job: a has its model loaded and runs 2 jobs on that device, b is idle, and c is idle
        but let an attempt expire recently. The order is a, b, c:
        a (False, False, 2, ...), b (False, True, 0, ...), c (True, True, 0, ...).
    """
    uuids = {reservation.uuid for reservation in chosen}
    others = sum(len(room.list_holdings_on(device)) for device in room.machine.devices if device.uuid in uuids)
    is_cold = not room.is_warm(model, chosen)
    return room.machine.expired_lately, is_cold, others, -room.free_slots, room.machine.worker_id
