"""A snapshot of a machine in the pool: its devices, and the resources that jobs hold on it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.scheduling.requirement import Requirement

# A device still counts as idle if other processes, for example a display server, use at most this much memory.
MAX_IDLE_USE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """A compute device of a machine: a GPU, or the CPU with its memory.

    Attributes:
        uuid: Its identifier, unique within the machine.
        index: Its index on the machine.
        memory_bytes: Its total memory.
        used_by_others_bytes: Memory that processes outside the service currently use.
        on_host: Whether it uses the host's memory, as a CPU does.
    """

    uuid: str
    index: int
    memory_bytes: int
    used_by_others_bytes: int = 0
    on_host: bool = False

    @property
    def is_used_by_others(self) -> bool:
        """Whether processes outside the service use more memory than is allowed on an idle device."""
        return not self.on_host and self.used_by_others_bytes > MAX_IDLE_USE_BYTES

    def get_usable_bytes(self, requirement: Requirement) -> int:
        """Return how much of this device's memory a job can use; on a CPU, the runner's own memory is subtracted."""
        return max(0, self.memory_bytes - (requirement.host_memory_bytes if self.on_host else 0))

    def get_bytes_to_reserve(self, requirement: Requirement) -> int:
        """Return the bytes that a job would reserve on this device."""
        if requirement.exclusive and not self.on_host:
            return self.memory_bytes
        return min(max(requirement.reserve_bytes, requirement.device_memory_bytes), self.get_usable_bytes(requirement))

    def is_large_enough(self, requirement: Requirement) -> bool:
        """Whether the job could run on this device if nothing else did."""
        return self.get_bytes_to_reserve(requirement) >= requirement.device_memory_bytes


@dataclass(frozen=True, slots=True)
class Reservation:
    """Memory of one device that is reserved for a job."""

    uuid: str
    index: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class HeldResources:
    """The resources that one job holds on a machine, and the key of the model that it loads."""

    job_id: str
    devices: tuple[Reservation, ...] = ()
    host_bytes: int = 0
    exclusive: bool = False
    model: str = ""

    def get_bytes_on(self, device: Device) -> int:
        """Return the bytes that the job holds on a device."""
        return sum(held.reserved_bytes for held in self.devices if held.uuid == device.uuid)

    def uses_device(self, device: Device) -> bool:
        """Whether the job runs on a device."""
        return any(held.uuid == device.uuid for held in self.devices)


@dataclass(frozen=True, slots=True)
class ResidentRunner:
    """A runner that keeps a model loaded; its memory counts as free, because it is released when a job needs it.

    Attributes:
        model: Key of the model.
        devices: UUIDs of its devices.
    """

    model: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine whose worker takes jobs.

    Attributes:
        worker_id: The worker that manages the machine.
        kinds: The kinds of jobs that it runs.
        slots: Maximum number of jobs that it runs at the same time.
        devices: Its devices.
        host_memory_bytes: Memory of the host.
        labels: Labels that its operator gave it.
        holdings: The resources that its current jobs hold.
        expired_lately: Whether its worker recently let an attempt expire and so may have lost its broker connection.
        residents: Runners that keep a model loaded, including busy ones.
        packages: Optional Python packages that it has; None if its worker's release does not report them.
    """

    worker_id: str
    kinds: frozenset[str]
    slots: int
    devices: tuple[Device, ...]
    host_memory_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    holdings: tuple[HeldResources, ...] = ()
    expired_lately: bool = False
    residents: tuple[ResidentRunner, ...] = ()
    packages: frozenset[str] | None = None

    def could_hold(self, requirement: Requirement) -> bool:
        """Whether the machine could hold one node of the job if it ran nothing else, regardless of its labels."""
        large = [device for device in self.devices if device.is_large_enough(requirement)]
        on_host = sum(device.on_host for device in large[: requirement.devices]) * requirement.device_memory_bytes
        host_is_enough = on_host + requirement.host_memory_bytes <= self.host_memory_bytes
        return len(large) >= requirement.devices and host_is_enough

    def meets_constraints(self, requirement: Requirement) -> bool:
        """Whether the machine has the labels that the job requires and is one of the workers that the job names."""
        named = not requirement.workers or self.worker_id in requirement.workers
        return named and all(self.labels.get(key) == value for key, value in requirement.labels)

    def has_packages(self, requirement: Requirement) -> bool:
        """Whether the machine has the packages that the job needs, or does not report its packages."""
        return self.packages is None or self.packages.issuperset(requirement.packages)

    def is_eligible(self, kind: str, requirement: Requirement) -> bool:
        """Whether the machine runs jobs of this kind, meets the job's constraints, and has the required packages."""
        return kind in self.kinds and self.meets_constraints(requirement) and self.has_packages(requirement)


class FreeCapacity:
    """A machine's free memory and slots during a round of placement."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.holdings: list[HeldResources] = list(machine.holdings)

    @property
    def free_slots(self) -> int:
        """Return how many more jobs the machine may run."""
        return self.machine.slots - len(self.holdings)

    @property
    def free_host_bytes(self) -> int:
        """Return the host memory that no job holds, neither directly nor on a CPU device."""
        on_host = [device for device in self.machine.devices if device.on_host]
        held = sum(holding.host_bytes + sum(map(holding.get_bytes_on, on_host)) for holding in self.holdings)
        return self.machine.host_memory_bytes - held

    def list_holdings_on(self, device: Device) -> list[HeldResources]:
        """Return the holdings of the jobs that run on a device."""
        return [holding for holding in self.holdings if holding.uses_device(device)]

    def get_free_bytes(self, device: Device) -> int:
        """Return the memory of a device that no job holds and no other process uses."""
        others = device.used_by_others_bytes if device.is_used_by_others else 0
        free = device.memory_bytes - others - sum(holding.get_bytes_on(device) for holding in self.holdings)
        return min(free, self.free_host_bytes) if device.on_host else free

    def choose_devices(self, requirement: Requirement) -> tuple[Reservation, ...] | None:
        """Return the devices to reserve for one node of a job, or None if it does not fit now.

        The devices of an idle resident with the job's model are preferred. Otherwise those that run the fewest other
        jobs are chosen, and among these the smallest.

        Example:
            Device 0 (80 GB) runs a job, devices 1 (80 GB) and 2 (24 GB) are idle, and the job needs 10 GB.
            The job gets device 2, which is idle and smaller than device 1.
            If an idle resident on device 0 has loaded the job's model, the job gets device 0 instead.
        """
        free = [device for device in self.machine.devices if self._is_free_for(requirement, device)]
        for uuids in self._list_warm_places(requirement.model):
            warm = [device for uuid in uuids for device in free if device.uuid == uuid]
            if len(warm) == len(uuids) == requirement.devices and (
                chosen := self._make_reservations(requirement, warm)
            ):
                return chosen
        free.sort(
            key=lambda device: (len(self.list_holdings_on(device)), device.memory_bytes, device.index, device.uuid)
        )
        return self._make_reservations(requirement, free[: requirement.devices])

    def is_warm(self, model: str, chosen: Sequence[Reservation]) -> bool:
        """Whether an idle resident on exactly these devices has loaded the model."""
        return tuple(reserved.uuid for reserved in chosen) in self._list_warm_places(model)

    def _list_warm_places(self, model: str) -> list[tuple[str, ...]]:
        """Return the devices of idle residents that have loaded a model.

        A resident is idle if no job with the model runs on its devices. Jobs and residents are matched one to one:
        with two residents on the same device and one such job there, one resident is still idle.
        """
        places = sorted(resident.devices for resident in self.machine.residents if model and resident.model == model)
        for holding in self.holdings:
            taken = tuple(reserved.uuid for reserved in holding.devices)
            if places and holding.model == model and taken in places:
                places.remove(taken)
        return places

    def _make_reservations(self, requirement: Requirement, chosen: Sequence[Device]) -> tuple[Reservation, ...] | None:
        on_host = sum(device.get_bytes_to_reserve(requirement) for device in chosen if device.on_host)
        if len(chosen) < requirement.devices or on_host + requirement.host_memory_bytes > self.free_host_bytes:
            return None
        return tuple(Reservation(each.uuid, each.index, each.get_bytes_to_reserve(requirement)) for each in chosen)

    def reserve(self, holding: HeldResources) -> None:
        """Reserve the resources that a job will hold."""
        self.holdings.append(holding)

    def _is_free_for(self, requirement: Requirement, device: Device) -> bool:
        holders = self.list_holdings_on(device)
        if not device.is_large_enough(requirement) or any(holder.exclusive for holder in holders):
            return False
        if requirement.exclusive and (holders or device.is_used_by_others):
            return False
        return self.get_free_bytes(device) >= device.get_bytes_to_reserve(requirement)


def list_free_capacity(machines: Iterable[Machine]) -> Sequence[FreeCapacity]:
    """Return each machine's free capacity, sorted by worker id, so that the order of database rows does not matter."""
    return [FreeCapacity(machine) for machine in sorted(machines, key=lambda machine: machine.worker_id)]
