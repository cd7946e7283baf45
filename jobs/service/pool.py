"""The pool as the scheduler sees it: machines, their devices, and the resources that jobs hold."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.records import AllocationRecord, WorkerRecord
from jobs.repository import allocations, workers
from jobs.scheduling import Device, HeldResources, Machine, Reservation, ResidentRunner
from jobs.service.workers import list_alive
from jobs.settings import Settings

MAX_ABSENCE_MS = 3_600_000  # jobs may wait for a worker that reported within this time


def read_machines(connection: Connection, settings: Settings, *, expired_lately: Collection[str] = ()) -> list[Machine]:
    """Return the machines of all workers that accept jobs, with the resources that open attempts hold.

    Args:
        connection: A transaction.
        settings: The settings; workers that have missed several heartbeat intervals are left out.
        expired_lately: Workers that recently let an attempt expire.
    """
    held: dict[str, list[AllocationRecord]] = {}
    for allocation in allocations.list_open(connection):
        held.setdefault(allocation.worker_id, []).append(allocation)
    alive = list_alive(connection, settings)
    models = allocations.map_jobs_to_models(connection) if any(worker.models for worker in alive) else {}
    return [
        to_machine(worker, held.get(worker.id, ()), models, expired_lately=worker.id in expired_lately)
        for worker in alive
        if worker.state == "active" and worker.drain_at is None
    ]


def read_known_machines(connection: Connection) -> list[Machine]:
    """Return the machines of all workers that reported within the last hour, as if no jobs ran on them."""
    return [to_machine(worker) for worker in workers.list_seen_since(connection, now_ms(connection) - MAX_ABSENCE_MS)]


def will_use_gpus(machines: Sequence[Machine]) -> bool:
    """Whether jobs will run on GPUs: true if any machine has one, or if no machine is known."""
    return not machines or any(not device.on_host for machine in machines for device in machine.devices)


def to_machine(
    worker: WorkerRecord,
    held: Iterable[AllocationRecord] = (),
    models: Mapping[str, str] | None = None,
    *,
    expired_lately: bool = False,
) -> Machine:
    """Return the machine of a worker as the scheduler sees it.

    Args:
        worker: What the worker reported.
        held: The worker's open allocations.
        models: Keys of the models that jobs load, by job.
        expired_lately: Whether the worker recently let an attempt expire.
    """
    devices = tuple(_to_device(device) for device in worker.devices)
    on_host = sum(device.memory_bytes for device in devices if device.on_host)
    packages = worker.host.get("packages")
    return Machine(
        worker_id=worker.id,
        kinds=frozenset(worker.kinds),
        slots=worker.slots,
        devices=devices,
        host_memory_bytes=int(worker.host.get("memory_bytes", on_host)),
        labels=dict(worker.labels),
        holdings=tuple(_to_holding(allocation, (models or {}).get(allocation.job_id, "")) for allocation in held),
        expired_lately=expired_lately,
        residents=tuple(ResidentRunner(each["key"], _list_uuids(each["devices"])) for each in worker.models),
        packages=None if packages is None else frozenset(packages),
    )


def _to_device(reported: Mapping[str, Any]) -> Device:
    kind, index = str(reported.get("type", "cpu")), int(reported.get("index", 0))
    return Device(
        uuid=str(reported.get("uuid", f"{kind}-{index}")),
        index=index,
        memory_bytes=int(reported.get("memory_bytes", 0)),
        used_by_others_bytes=int(reported.get("used_by_others_bytes") or 0),
        on_host=kind == "cpu",
    )


def _list_uuids(devices: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(str(device["uuid"]) for device in devices)


def _to_holding(allocation: AllocationRecord, model: str) -> HeldResources:
    devices = tuple(Reservation(each["uuid"], each["index"], each["reserved_bytes"]) for each in allocation.devices)
    return HeldResources(allocation.job_id, devices, allocation.host_bytes, allocation.exclusive, model)
