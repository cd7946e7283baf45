"""Distinguishes out-of-memory errors from others, without loading torch."""

import sys

CPU_ALLOCATOR_MESSAGE = "DefaultCPUAllocator: can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or the host ran out of memory; on CPUs, torch raises RuntimeError."""
    torch = sys.modules.get("torch")  # if torch is not loaded, it cannot have raised the error
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR_MESSAGE in str(error)
