"""The host's memory and CPU cores."""

import os
from typing import Any

from baichuan_core.host_memory import available_host_bytes, total_host_bytes


def read_host_resources() -> dict[str, Any]:
    """Return the memory in bytes, total and available, and the number of cores that this process may use.

    In a container with a memory limit, neither memory size exceeds that limit.
    """
    memory = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), total_host_bytes())
    return {
        "memory_bytes": memory,
        "available_bytes": min(memory, available_host_bytes()),
        "cores": len(os.sched_getaffinity(0)),
    }


def describe_cpu(host: dict[str, Any]) -> dict[str, Any]:
    """Return the CPU of a machine without GPUs as a device; its memory is the host's memory."""
    return {
        "type": "cpu",
        "index": 0,
        "uuid": "cpu-0",
        "name": "CPU",
        "memory_bytes": host["memory_bytes"],
        "cores": host["cores"],
    }
