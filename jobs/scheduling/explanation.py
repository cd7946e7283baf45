"""Explanations of why a job is waiting: one sentence each, with numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from footprint import format_gib
from jobs.scheduling.machine import Device, FreeCapacity, HeldResources
from jobs.scheduling.placement import WaitingJob
from jobs.scheduling.requirement import Requirement

MAX_NAMED_HOLDERS = 3

Cause = Literal["no_worker", "kind", "labels", "packages", "slots", "devices", "device_memory", "host_memory", "nodes"]


@dataclass(frozen=True, slots=True)
class ResourceHolder:
    """A job that holds memory that another job is waiting for."""

    job_id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reason why a job is waiting.

    Attributes:
        cause: The missing resource.
        message: A sentence that says what the job needs, what the best machine has free, and which jobs hold the rest.
        worker_id: The worker of the best machine, if there is one.
        free_bytes: Free memory of that machine's best device, or of its host if host memory is what is missing.
        holders: Jobs that hold the rest, largest first.
    """

    cause: Cause
    message: str
    worker_id: str | None = None
    free_bytes: int | None = None
    holders: tuple[ResourceHolder, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """Return the JSON that the database stores."""
        return asdict(self) | {"holders": [asdict(holder) for holder in self.holders]}


def explain_wait(job: WaitingJob, rooms: Sequence[FreeCapacity]) -> Explanation:
    """Explain why a job that was not placed is waiting.

    Args:
        job: The job.
        rooms: The free resources of all machines after this round of placement.
    """
    if not rooms:
        return Explanation("no_worker", "no worker is running, or all are draining; start one with `baichuan worker`")
    able = [room for room in rooms if job.kind in room.machine.kinds]
    if not able:
        return Explanation("kind", f"no active worker accepts {job.kind} jobs")
    labelled = [room for room in able if room.machine.meets_constraints(job.requirement)]
    if not labelled:
        return Explanation("labels", f"no active worker {_describe_constraints(job.requirement)}")
    equipped = [room for room in labelled if room.machine.has_packages(job.requirement)]
    if not equipped:
        return Explanation("packages", f"no worker that could run the job {describe_missing_packages(job.requirement)}")
    return _explain_capacity(job.requirement, equipped)


def describe_missing_packages(need: Requirement) -> str:
    """Return the end of a sentence that begins "no worker": the packages that a job needs and how to install them."""
    names, extras = " and ".join(need.packages), ",".join(need.packages)
    return f'has {names}; run `pip install "baichuan-jobs[{extras}]"` on a worker'


def _describe_constraints(need: Requirement) -> str:
    named = [f"is one of {', '.join(need.workers)}"] if need.workers else []
    labels = ", ".join(f"{key}={value}" for key, value in need.labels)
    return " and ".join([*named, *([f"has the labels {labels}"] if labels else [])])


def _explain_capacity(need: Requirement, rooms: Sequence[FreeCapacity]) -> Explanation:
    """Explain which of the required resources the eligible machines lack."""
    large = [room for room in rooms if room.machine.could_hold(need)]
    if not large:
        return _explain_size(need, rooms)
    with_slots = [room for room in large if room.free_slots > 0]
    if not with_slots:
        return _explain_slots(large)
    fitting = sum(room.choose_devices(need) is not None for room in with_slots)
    if fitting:  # some machines have room, but fewer than the job needs
        message = (
            f"needs {need.nodes} machines with {_describe_node(need)} each; {fitting} of {len(large)} have that free"
        )
        return Explanation("nodes", message)
    return _explain_memory(need, with_slots)


def _describe_node(need: Requirement) -> str:
    if need.devices == 0:
        return f"{format_gib(need.host_memory_bytes)} of host memory"
    devices = f"{need.devices} device" + ("s" if need.devices > 1 else "")
    size = max(need.device_memory_bytes, need.reserve_bytes)
    idle = "idle " if need.exclusive else ""
    each = " each" if need.devices > 1 else ""
    return f"{devices.replace('device', f'{idle}device')} with {format_gib(size)}{each}"


def _explain_size(need: Requirement, rooms: Sequence[FreeCapacity]) -> Explanation:
    """Explain that no machine could ever hold the job, because the pool has changed since the job was submitted."""
    best = max(rooms, key=lambda room: (_count_large_devices(need, room), room.machine.host_memory_bytes))
    worker, count = best.machine.worker_id, _count_large_devices(need, best)
    if need.devices > count > 0:
        return Explanation("devices", f"needs {_describe_node(need)}; {worker} has {count} such devices in all", worker)
    sizes = [
        (device.get_usable_bytes(need), room.machine.worker_id) for room in rooms for device in room.machine.devices
    ]
    size, worker = max(sizes, default=(0, worker))
    message = f"needs {_describe_node(need)}; the largest device, on {worker}, has {format_gib(size)} available to jobs"
    return Explanation("device_memory", message, worker, size)


def _count_large_devices(need: Requirement, room: FreeCapacity) -> int:
    return sum(device.is_large_enough(need) for device in room.machine.devices)


def _explain_slots(rooms: Sequence[FreeCapacity]) -> Explanation:
    best = min(rooms, key=lambda room: (len(room.holdings), room.machine.worker_id))
    names = _join_names(holding.job_id for holding in best.holdings)
    message = f"needs a free slot; {best.machine.worker_id} runs {len(best.holdings)} of at most {best.machine.slots} "
    return Explanation("slots", f"{message}jobs ({names})", best.machine.worker_id, None, _list_holders(best.holdings))


def _explain_memory(need: Requirement, rooms: Sequence[FreeCapacity]) -> Explanation:
    if need.devices == 0:
        best = max(rooms, key=lambda room: (room.free_host_bytes, room.machine.worker_id))
        return _explain_shortage(need, best, best.free_host_bytes, best.holdings, None)
    room, device = max(
        ((room, device) for room in rooms for device in room.machine.devices),
        key=lambda each: (not _is_blocked(need, *each), each[0].get_free_bytes(each[1]), each[0].machine.worker_id),
    )
    return _explain_shortage(need, room, room.get_free_bytes(device), room.list_holdings_on(device), device)


def _is_blocked(need: Requirement, room: FreeCapacity, device: Device) -> bool:
    holders = room.list_holdings_on(device)
    return any(holder.exclusive for holder in holders) or (need.exclusive and bool(holders))


def _explain_shortage(
    need: Requirement, room: FreeCapacity, free: int, holdings: Sequence[HeldResources], device: Device | None
) -> Explanation:
    worker = room.machine.worker_id
    holders = tuple(
        sorted(
            (
                ResourceHolder(held.job_id, held.get_bytes_on(device) if device else held.host_bytes)
                for held in holdings
            ),
            key=lambda holder: (-holder.bytes, holder.job_id),
        )
    )
    parts = [f"needs {_describe_node(need)}", f"{worker} has {format_gib(max(free, 0))} free"]
    if device is not None and device.is_used_by_others:
        parts.append(f"processes outside the service use {format_gib(device.used_by_others_bytes)}")
    if holders:
        named = [f"{holder.job_id} holds {format_gib(holder.bytes)}" for holder in holders[:MAX_NAMED_HOLDERS]]
        more = len(holders) - MAX_NAMED_HOLDERS
        parts.append(", ".join(named) + (f" and {more} more jobs hold the rest" if more > 0 else ""))
    cause: Cause = "host_memory" if device is None else "devices" if need.devices > 1 else "device_memory"
    return Explanation(cause, "; ".join(parts), worker, free, holders)


def _list_holders(holdings: Iterable[HeldResources]) -> tuple[ResourceHolder, ...]:
    return tuple(
        ResourceHolder(held.job_id, held.host_bytes + sum(each.reserved_bytes for each in held.devices))
        for held in holdings
    )


def _join_names(ids: Iterable[str]) -> str:
    listed = sorted(ids)
    more = len(listed) - MAX_NAMED_HOLDERS
    return ", ".join(listed[:MAX_NAMED_HOLDERS]) + (f" and {more} more" if more > 0 else "")
