"""Queries NVIDIA's management library (NVML) for GPUs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")


class Nvml:
    """Queries NVML for the GPUs that this process may use.

    Args:
        library: The functions of `pynvml`; tests pass a recorded machine instead.
    """

    def __init__(self, library: Any = pynvml) -> None:
        self._nvml = library

    def read_gpus(self, is_ours: Callable[[int], bool]) -> list[dict[str, Any]]:
        """Return the visible GPUs with their memory and utilization; an empty list if there is no driver.

        Args:
            is_ours: Returns whether a process id belongs to one of our runners.
        """
        with self._session() as works:
            return [self._describe(*each, is_ours) for each in self._list_visible()] if works else []

    @contextmanager
    def _session(self) -> Iterator[bool]:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError:
            yield False
            return
        try:
            yield True
        finally:
            self._nvml.nvmlShutdown()

    def _list_visible(self) -> Iterator[tuple[int, str, Any]]:
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = self._nvml.nvmlDeviceGetUUID(handle)
            if is_visible(index, uuid, os.environ.get("CUDA_VISIBLE_DEVICES")):
                yield index, uuid, handle

    def _describe(self, index: int, uuid: str, handle: Any, is_ours: Callable[[int], bool]) -> dict[str, Any]:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        capability = self._query(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        utilization = self._query(nvml.nvmlDeviceGetUtilizationRates, handle)
        return {
            "type": "cuda",
            "index": index,
            "uuid": uuid,
            "name": nvml.nvmlDeviceGetName(handle),
            "memory_bytes": int(memory.total),
            "used_bytes": int(memory.used),
            "used_by_others_bytes": self._measure_usage_by_others(handle, int(memory.used), is_ours),
            "utilization": None if utilization is None else int(utilization.gpu),
            "temperature": self._query(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            "capability": None if capability is None else f"{capability[0]}.{capability[1]}",
        }

    def _measure_usage_by_others(self, handle: Any, used: int, is_ours: Callable[[int], bool]) -> int:
        """Return the memory in use outside our runners, including the driver's, which belongs to no process."""
        processes = self._query(self._nvml.nvmlDeviceGetComputeRunningProcesses, handle)
        ours = sum(int(each.usedGpuMemory or 0) for each in processes or () if is_ours(each.pid))
        return max(0, used - ours)

    def _query(self, question: Callable[..., T], *arguments: Any) -> T | None:
        """Return the result of an NVML function, or None if this device or driver does not support it."""
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


def is_visible(index: int, uuid: str, listed: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES, which NVML ignores, includes this GPU; if unset (None), all GPUs are visible."""
    if listed is None:
        return True
    names = [name.strip() for name in listed.split(",")]
    return any(name == str(index) or (len(name) > len("GPU-") and uuid.startswith(name)) for name in names)
