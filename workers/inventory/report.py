"""The inventory of a machine, read again for each heartbeat."""

import os
from collections.abc import Collection, Sequence
from typing import Any

from workers.inventory.declared import DeclaredDevice
from workers.inventory.host import describe_cpu, read_host_resources
from workers.inventory.nvml import Nvml

DEFAULT_JOBS_PER_GPU = 4


class Inventory:
    """The devices of a machine.

    Args:
        declared: Devices that the operator declares; if empty, all detected devices are used.
        nvml: Queries the GPUs.
    """

    def __init__(self, declared: Sequence[DeclaredDevice] = (), nvml: Nvml | None = None) -> None:
        self._declared = declared
        self._nvml = nvml or Nvml()

    def list_devices(self, runners: Collection[int] = ()) -> list[dict[str, Any]]:
        """Return the devices with their measured memory usage, or the CPU if there is no GPU.

        Args:
            runners: Process groups of our runners, whose memory does not count as used by others.
        """
        found = self._nvml.read_gpus(lambda pid: _get_process_group(pid) in runners)
        if not self._declared:
            return found or [describe_cpu(read_host_resources())]
        measured = {device["uuid"]: device for device in found}
        return [measured.get(device.uuid, {}) | device.model_dump() for device in self._declared]

    def has_gpu(self) -> bool:
        """Whether CUDA would find a device on this machine."""
        return bool(self._nvml.read_gpus(lambda _pid: False))

    def choose_slot_count(self, asked: int) -> int:
        """Return the maximum number of concurrent jobs: `asked`, or a default for the devices if that is 0."""
        gpus = sum(device["type"] == "cuda" for device in self.list_devices())
        return asked or max(1, DEFAULT_JOBS_PER_GPU * gpus)


def _get_process_group(pid: int) -> int:
    """Return the process group of a process, or 0 if it has ended or is not visible."""
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return 0
