"""Measures and limits device memory."""

import gc
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from baichuan_core.host_memory import KIB, available_host_bytes, total_host_bytes

# Bytes that this process may use, by device index; empty if no limit is set.
_memory_limits: dict[int, int] = {}
_host_baseline_bytes: int | None = None


def limit_memory(reserved: Sequence[int]) -> None:
    """Limit how much memory this process may use on its devices, replacing any earlier limit.

    On a GPU, torch's allocator enforces the limit and raises `OutOfMemoryError`. On a CPU, the limit is not enforced,
    but `free_bytes` subtracts from it the memory allocated since the first call. So the first call must come before any
    model is loaded.

    Args:
        reserved: Bytes on each visible device, in order; empty if the process does not share its devices.
    """
    global _host_baseline_bytes  # noqa: PLW0603 - limits apply to the whole process
    limited = set(_memory_limits)
    _memory_limits.clear()
    if torch.cuda.is_available():
        for index in limited:
            torch.cuda.set_per_process_memory_fraction(1.0, index)
        for index, count in enumerate(reserved[: torch.cuda.device_count()]):
            total = torch.cuda.mem_get_info(index)[1]
            torch.cuda.set_per_process_memory_fraction(min(1.0, count / total), index)
            _memory_limits[index] = count
        return
    if _host_baseline_bytes is None:
        _host_baseline_bytes = _measure_anonymous_bytes()
    if reserved:
        _memory_limits[0] = sum(reserved)


def held_bytes() -> tuple[list[int], int]:
    """Return the bytes reserved by torch on each GPU, and the host memory of this process and its descendants in bytes.

    Pages of mapped files do not count, because the system can reclaim them.
    """
    on_gpus = [torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())]
    return on_gpus, sum(_measure_anonymous_bytes(pid) for pid in _list_process_tree(os.getpid()))


def limit_device_memory(index: int, count: int) -> None:
    """Limit this process to `count` bytes of one device; see `limit_memory`. Without a GPU, the CPU is device 0."""
    global _host_baseline_bytes  # noqa: PLW0603 - limits apply to the whole process
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info(index)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, count / total), index)
    else:
        _host_baseline_bytes = _measure_anonymous_bytes()
    _memory_limits[index] = count


def get_memory_limits() -> dict[int, int]:
    """Return this process's memory limits in bytes, by device index; empty if it has none."""
    return dict(_memory_limits)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the given device; if None, the first GPU, or the CPU if there is no GPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def free_bytes(device: str | torch.device | None = None) -> int:
    """Return the free memory of a device in bytes; by default of the first GPU, or of the CPU if there is no GPU.

    On the CPU, this is the system's available memory, or the memory left under a container's limit if that is less.
    """
    where = choose_device(device)
    if where.type == "cuda":
        free, _total = torch.cuda.mem_get_info(where)
        limit = _memory_limits.get(where.index or 0)
        return int(free) if limit is None else min(int(free), limit - torch.cuda.memory_reserved(where))
    limits = [_memory_limits[0] - (_measure_anonymous_bytes() - (_host_baseline_bytes or 0))] if _memory_limits else []
    return min([available_host_bytes(), *limits])


def total_bytes(device: str | torch.device | None = None) -> int:
    """Return the total memory of a device in bytes; by default of the first GPU, or of the CPU if there is no GPU.

    On the CPU, this is the memory of the system, or the container's limit if that is less.
    """
    where = choose_device(device)
    if where.type == "cuda":
        _free, total = torch.cuda.mem_get_info(where)
        return int(total)
    return total_host_bytes()


def _measure_anonymous_bytes(pid: int | str = "self") -> int:
    """Return a process's anonymous memory in bytes, which excludes mapped files; 0 if the process has exited."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("RssAnon:")), 0)


def _list_process_tree(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    try:
        lists = [(task / "children").read_text("ascii") for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [pid, *(below for child in " ".join(lists).split() for below in _list_process_tree(int(child)))]


def release_memory() -> None:
    """Free unreferenced memory; 4-bit weights of bitsandbytes form reference cycles, which need garbage collection."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
