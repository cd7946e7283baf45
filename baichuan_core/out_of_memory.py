"""Distinguishes out of memory from other errors, without loading torch."""

import sys

CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host, had too little memory left: torch says so of a CPU by a plain RuntimeError."""
    torch = sys.modules.get("torch")  # if it is not loaded, it has raised nothing
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)
