"""Whether an unquantized model fits beside what is there: a machine that only quantizes may be too small for it."""

import re
from pathlib import Path

import torch

MEMORY_OF_THE_MACHINE = Path("/proc/meminfo")  # Linux; elsewhere nobody is asked
WORKING_MEMORY = 2**29  # activations and slices of the distribution
GIBIBYTE = 2**30


def too_little_memory(weight_bytes: int, device: str | None) -> str | None:
    """Why a model of this size cannot be loaded on `device`; None if it can, or if nobody knows."""
    needed = weight_bytes + WORKING_MEMORY
    free = _free_bytes(device)
    if free is None or needed <= free:
        return None
    return (
        f"the unquantized model needs {needed / GIBIBYTE:.1f} GiB and {free / GIBIBYTE:.1f} GiB are free here: "
        "measure where it fits"
    )


def _free_bytes(device: str | None) -> int | None:
    on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    if on_gpu:
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    if not MEMORY_OF_THE_MACHINE.is_file():
        return None
    found = re.search(r"^MemAvailable: +(\d+) kB", MEMORY_OF_THE_MACHINE.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
