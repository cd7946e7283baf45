"""Residents: runners that keep the model of their last attempt loaded and wait for another attempt that uses it.

A resident holds memory only until a job that starts here or another process on the machine needs it.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.records import AllocationRecord
from jobs.service.claims import Claim
from workers.inventory import Inventory, read_host_resources
from workers.messages import ModelKept
from workers.process import Runner
from workers.settings import WorkerSettings

WATCH_INTERVAL_SECONDS = 0.5
HOST_POOL = "host"  # name of the host memory pool, which CPU devices share with everything else

log = logging.getLogger(__name__)

BytesByPool = Mapping[str, int]  # keys: the UUID of a GPU, or HOST_POOL


@dataclass(eq=False, slots=True)
class Resident:
    """A runner with a loaded model.

    Attributes:
        runner: The process.
        kept: The model that the runner keeps loaded.
        devices: UUIDs of the runner's devices.
        bytes: Bytes of memory that the runner holds.
        loaded_at: When its model was loaded, in seconds since the epoch.
        idle_since: When its last attempt ended, by the monotonic clock.
        is_busy: Whether it is running an attempt.
    """

    runner: Runner
    kept: ModelKept
    devices: tuple[str, ...]
    bytes: BytesByPool
    loaded_at: float
    idle_since: float = field(default_factory=time.monotonic)
    is_busy: bool = False

    def report(self) -> dict[str, Any]:
        """Return the resident's entry in `WorkerRecord.models`."""
        return {
            **asdict(self.kept.model),
            "key": self.kept.model.key,
            "engine": self.kept.engine,
            "devices": [{"uuid": uuid, "bytes": self.bytes.get(_get_pool(uuid), 0)} for uuid in self.devices],
            "host_bytes": self.bytes.get(HOST_POOL, 0),
            "since": int(self.loaded_at * 1000),
            "busy": self.is_busy,
        }


class Residents:
    """The residents of a worker, and the memory reserved by its running attempts.

    Each attempt's thread calls `begin_attempt` before the attempt and `end_attempt` after it.
    """

    def __init__(self, worker: WorkerSettings, inventory: Inventory, on_change: Callable[[], None]) -> None:
        self._worker = worker
        self._inventory = inventory
        self._on_change = on_change
        self._lock = threading.Lock()
        self._residents: list[Resident] = []
        self._running: dict[str, AllocationRecord] = {}
        self._closing = threading.Event()
        self._may_keep = True
        self._thread = threading.Thread(target=self._watch, name="residents", daemon=True)

    def start(self) -> None:
        """Start watching idle residents."""
        self._thread.start()

    def begin_attempt(self, claim: Claim) -> Resident | None:
        """Return an idle resident that the attempt can use, if any; first close others whose memory it needs."""
        with self._lock:
            self._running[claim.attempt.id] = claim.allocation
            chosen = next((each for each in self._list_idle() if _can_run(each, claim)), None)
            if chosen is not None:
                chosen.is_busy = True
            idle = self._list_idle()
        victims = self._choose_victims(claim.allocation, chosen, idle) if idle else []
        self._close(victims, f"{claim.attempt.id} needs the memory")
        return chosen

    def end_attempt(self, claim: Claim, used: Resident | None, runner: Runner | None, kept: ModelKept | None) -> None:
        """Record that an attempt has ended, and keep its runner as a resident or close it.

        Args:
            claim: The attempt.
            used: What `begin_attempt` returned.
            runner: The attempt's runner if it stays alive; None if it has been closed.
            kept: The model that the runner keeps loaded.
        """
        new = None
        with self._lock:
            self._running.pop(claim.attempt.id, None)
            if used is not None:
                self._residents.remove(used)
            if runner is not None and kept is not None and self._may_keep and not self._closing.is_set():
                is_same = used is not None and (used.runner, used.kept.model) == (runner, kept.model)
                loaded_at = used.loaded_at if used is not None and is_same else time.time()
                new = _create_resident(runner, kept, claim.allocation, loaded_at)
                self._residents.append(new)
        if runner is not None and new is None:
            runner.close(self._worker.exit_seconds)
        if (used and used.kept.model) != (new and new.kept.model):
            self._on_change()

    def drain(self) -> None:
        """Close idle residents and keep no new ones; return immediately."""
        self._closing.set()

    def close(self) -> None:
        """Close all residents and stop watching."""
        self._closing.set()
        if self._thread.ident:
            self._thread.join()
        with self._lock:
            idle = self._list_idle()
        self._close(idle, "the worker is shutting down")

    def close_unwanted(
        self, *, may_keep: bool, obsolete: Collection[str], devices: Sequence[Mapping[str, Any]]
    ) -> None:
        """Close residents that may not be kept, and the longest idle one on each device that is short of memory.

        Args:
            may_keep: False if an administrator is draining the worker.
            obsolete: Keys of models that have been deleted or replaced.
            devices: The devices with their current memory usage.
        """
        with self._lock:
            self._may_keep = may_keep
            idle = self._list_idle()
        self._close([each for each in idle if not may_keep], "the worker is being drained")
        self._close(
            [each for each in idle if each.kept.model.key in obsolete], "its model has been deleted or replaced"
        )
        for device in devices:
            used = device.get("used_bytes")
            if used is not None and device["memory_bytes"] - used < self._worker.memory_reserve_bytes:
                self._close(
                    self._find_longest_idle_resident(device["uuid"]), f"device {device['uuid']} is short of memory"
                )

    def list_process_groups(self) -> frozenset[int]:
        """Return the process groups of all residents."""
        with self._lock:
            return frozenset(each.runner.pid for each in self._residents)

    def report(self) -> list[dict[str, Any]]:
        """Return the residents' entries for a heartbeat."""
        with self._lock:
            return [each.report() for each in self._residents]

    def _list_idle(self) -> list[Resident]:
        """Return the idle residents, longest idle first."""
        return sorted((each for each in self._residents if not each.is_busy), key=lambda each: each.idle_since)

    def _find_longest_idle_resident(self, uuid: str) -> list[Resident]:
        with self._lock:
            return [each for each in self._list_idle() if uuid in each.devices][:1]

    def _choose_victims(
        self, allocation: AllocationRecord, chosen: Resident | None, idle: Sequence[Resident]
    ) -> list[Resident]:
        """Return the idle residents that must be closed so that an attempt gets its reserved memory.

        The choice considers both the reservations and the memory that is free now, which other processes may also use.
        """
        capacity, free = self._measure_memory()
        with self._lock:
            reserved = _sum_by_pool(_get_demand(each) for each in self._running.values())
        mine, present = _get_demand(allocation), chosen.bytes if chosen else {}
        victims: list[Resident] = []
        for pool, count in mine.items():
            held = sum(each.bytes.get(pool, 0) for each in idle if each not in victims)
            short = reserved.get(pool, 0) + held - capacity.get(pool, reserved.get(pool, 0) + held)
            wanted = count - present.get(pool, 0)
            short = max(short, wanted - free.get(pool, wanted))
            for each in idle:
                if short > 0 and each not in victims and each.bytes.get(pool, 0):
                    victims.append(each)
                    short -= each.bytes[pool]
        return victims

    def _measure_memory(self) -> tuple[BytesByPool, BytesByPool]:
        """Return, for each pool, the memory that jobs may use, and the memory that is free now, if known."""
        host = read_host_resources()
        capacity, free = {HOST_POOL: int(host["memory_bytes"])}, {HOST_POOL: int(host["available_bytes"])}
        for device in self._inventory.list_devices(self.list_process_groups()):
            if _get_pool(device["uuid"]) == HOST_POOL:
                continue
            capacity[device["uuid"]] = device["memory_bytes"] - (device.get("used_by_others_bytes") or 0)
            if device.get("used_bytes") is not None:
                free[device["uuid"]] = device["memory_bytes"] - device["used_bytes"]
        return capacity, free

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_INTERVAL_SECONDS):
            try:
                self._close_stale()
            except Exception:
                log.exception("could not check the residents, trying again")
        with self._lock:
            idle = self._list_idle()
        self._close(idle, "the worker is shutting down")

    def _close_stale(self) -> None:
        """Close residents that have died or idled too long, and the longest idle one if the host is short of memory."""
        with self._lock:
            idle = self._list_idle()
            dead = [each for each in idle if _is_dead(each.runner)]
        too_old = time.monotonic() - self._worker.keep_seconds
        self._close(dead, "it has died")
        self._close([each for each in idle if each.idle_since <= too_old], "it has been idle for too long")
        if read_host_resources()["available_bytes"] < self._worker.memory_reserve_bytes:
            self._close(idle[:1], "the machine is short of memory")

    def _close(self, residents: Iterable[Resident], reason: str) -> None:
        """Close the given residents if they are still idle, and wait until their memory is free."""
        with self._lock:
            ours = [each for each in residents if each in self._residents and not each.is_busy]
            for each in ours:
                self._residents.remove(each)
        for each in ours:
            log.info("closing resident %d with model %s: %s", each.runner.pid, each.kept.model.id, reason)
            each.runner.kill()  # kill all of them before waiting for any
        for each in ours:
            each.runner.close(self._worker.exit_seconds)
        if ours:
            self._on_change()


def _create_resident(runner: Runner, kept: ModelKept, allocation: AllocationRecord, loaded_at: float) -> Resident:
    devices = tuple(device["uuid"] for device in allocation.devices)
    on_gpus = zip((uuid for uuid in devices if _get_pool(uuid) != HOST_POOL), kept.device_bytes, strict=False)
    return Resident(runner, kept, devices, {**dict(on_gpus), HOST_POOL: kept.host_bytes}, loaded_at)


def _can_run(resident: Resident, claim: Claim) -> bool:
    devices = tuple(device["uuid"] for device in claim.allocation.devices)
    same = resident.devices == devices and resident.kept.model.key == claim.job.requirement.get("model")
    return same and resident.kept.is_usable_for(claim.spec) and not _is_dead(resident.runner)


def _is_dead(runner: Runner) -> bool:
    """Whether an idle runner has exited. Its output between attempts belongs to no attempt and is dropped."""
    for _ in runner.listen(0):
        pass
    return runner.is_silent or runner.exit_code is not None


def _get_demand(allocation: AllocationRecord) -> BytesByPool:
    on_devices = ({_get_pool(device["uuid"]): int(device["reserved_bytes"])} for device in allocation.devices)
    return _sum_by_pool([*on_devices, {HOST_POOL: allocation.host_bytes}])


def _sum_by_pool(parts: Iterable[BytesByPool]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for pool, count in part.items():
            total[pool] = total.get(pool, 0) + count
    return total


def _get_pool(uuid: str) -> str:
    """Return the name of a device's memory pool: a CPU uses the host's."""
    return HOST_POOL if uuid.startswith("cpu") else uuid
