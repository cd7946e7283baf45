"""What a machine offers for computing, found without loading torch."""

import os
from collections.abc import Iterator
from typing import Any

import pynvml


def devices() -> list[dict[str, Any]]:
    """The visible GPUs with their memory in bytes, or else the CPU."""
    return list(_gpus()) or [_cpu()]


def has_gpu() -> bool:
    """Whether a runner would find a CUDA device."""
    return any(_gpus())


def _gpus() -> Iterator[dict[str, Any]]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            if _is_visible(index, uuid):
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                name = pynvml.nvmlDeviceGetName(handle)
                yield {"type": "cuda", "index": index, "name": name, "uuid": uuid, "memory_bytes": int(memory.total)}
    finally:
        pynvml.nvmlShutdown()


def _is_visible(index: int, uuid: str) -> bool:
    """CUDA_VISIBLE_DEVICES hides GPUs from CUDA, but not from NVML."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return True
    names = [name.strip() for name in listed.split(",")]
    return any(name == str(index) or (len(name) > len("GPU-") and uuid.startswith(name)) for name in names)


def _cpu() -> dict[str, Any]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"type": "cpu", "index": 0, "name": "CPU", "cores": len(os.sched_getaffinity(0)), "memory_bytes": memory}
