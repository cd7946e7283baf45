"""The host: its memory and its cores."""

import os
from pathlib import Path
from typing import Any

MEMINFO = Path("/proc/meminfo")
KIB = 1024


def read_host() -> dict[str, Any]:
    """Return memory in bytes, all and available, and the number of cores that this process may use."""
    return {
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "available_bytes": _available_bytes(),
        "cores": len(os.sched_getaffinity(0)),
    }


def cpu_device(host: dict[str, Any]) -> dict[str, Any]:
    """Return the CPU of a machine without GPUs as a device: its memory is the host's."""
    return {
        "type": "cpu",
        "index": 0,
        "uuid": "cpu-0",
        "name": "CPU",
        "memory_bytes": host["memory_bytes"],
        "cores": host["cores"],
    }


def _available_bytes() -> int | None:
    try:
        lines = MEMINFO.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable:")), None)
