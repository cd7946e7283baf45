"""The decision: which waiting jobs start now, on which devices of which machines."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.scheduling.machine import Holding, Machine, Reservation, Room, rooms_of
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
    """One decision: a job and its place, one entry per node."""

    job_id: str
    nodes: tuple[NodePlacement, ...]
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """The decisions of one round, the jobs that still wait, and the rooms as the decisions leave them."""

    placements: Sequence[Placement]
    left: Sequence[WaitingJob]
    rooms: Sequence[Room]


def place(waiting: Sequence[WaitingJob], machines: Sequence[Machine]) -> Round:
    """Place jobs by priority and then by age.

    Ids grow with time, so they are the age. A job that fits nowhere now does not hold up those behind it. A job goes
    where its model is loaded and idle, if it fits there now, but never waits for such a place. Else jobs spread: each
    goes to the devices that run the fewest others, then to the machine with the most free slots. Workers that let an
    attempt expire lately come last: a deaf one would swallow jobs while others are idle.

    Example: two jobs that need 10 GB, and a machine with an 80 GB device 0 and a 24 GB device 1, both idle. The first
    job goes to device 1, which is the smaller one, the second to device 0, and a third of 20 GB to device 0 as well,
    since only 14 GB are left on device 1.
    """
    rooms = rooms_of(machines)
    placements, left = [], []
    hopeless: set[tuple[str, Requirement]] = set()  # free room only shrinks during a round
    for job in sorted(waiting, key=lambda job: (-job.priority, job.id)):
        same = (job.kind, job.requirement)
        placement = None if same in hopeless else _place_one(job, rooms)
        if placement is None:
            left.append(job)
            hopeless.add(same)
        else:
            placements.append(placement)
    return Round(placements, left, rooms)


def _place_one(job: WaitingJob, rooms: Sequence[Room]) -> Placement | None:
    """Reserve a place for one job, if enough machines have room for it."""
    able = []
    for room in rooms:
        if room.free_slots > 0 and room.machine.is_eligible(job.kind, job.requirement):
            chosen = room.choose(job.requirement)
            if chosen is not None:
                able.append((_rank(room, chosen, job.requirement.model), room, chosen))
    if len(able) < job.requirement.nodes:
        return None
    able.sort(key=lambda each: each[0])
    nodes = []
    for _, room, chosen in able[: job.requirement.nodes]:
        need = job.requirement
        room.take(Holding(job.id, chosen, need.host_memory_bytes, need.exclusive, need.model))
        nodes.append(NodePlacement(room.machine.worker_id, chosen, job.requirement.host_memory_bytes))
    return Placement(job.id, tuple(nodes), job.requirement.exclusive)


def _rank(room: Room, chosen: Sequence[Reservation], model: str) -> tuple[bool, bool, int, int, str]:
    """Return the sort key of a possible place: the best is the smallest."""
    uuids = {reservation.uuid for reservation in chosen}
    others = sum(len(room.holders(device)) for device in room.machine.devices if device.uuid in uuids)
    is_cold = not room.is_warm(model, chosen)
    return room.machine.expired_lately, is_cold, others, -room.free_slots, room.machine.worker_id
