"""How much memory a device has left."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**63
KIB = 1024


# What this process may take of each device, if it shares them: bytes by the device's number.
_limits: dict[int, int] = {}
_host_baseline = 0


def limit_memory(reserved: Sequence[int]) -> None:
    """Limit this process to a part of its devices, which it shares with others.

    On a GPU torch's allocator keeps to it, and raises `OutOfMemoryError` beyond. A CPU cannot enforce it; there the
    functions of this module count only what is left of the limit.

    Args:
        reserved: Bytes on each visible device, in their order.
    """
    global _host_baseline  # noqa: PLW0603 - a limit of the process
    if torch.cuda.is_available():
        for index, count in enumerate(reserved[: torch.cuda.device_count()]):
            total = torch.cuda.mem_get_info(index)[1]
            torch.cuda.set_per_process_memory_fraction(min(1.0, count / total), index)
            _limits[index] = count
    elif reserved:
        _host_baseline = _own_bytes()
        _limits[0] = sum(reserved)


def limit_device(index: int, count: int) -> None:
    """Limit this process to `count` bytes of one device, like `limit_memory`; the CPU is device 0 without a GPU."""
    global _host_baseline  # noqa: PLW0603 - a limit of the process
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info(index)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, count / total), index)
    else:
        _host_baseline = _own_bytes()
    _limits[index] = count


def reserved_bytes() -> dict[int, int]:
    """Return the limits of this process by device, for processes that share its devices; empty if it has none."""
    return dict(_limits)


def chosen_device(device: str | torch.device | None = None) -> torch.device:
    """The device that is meant: the first GPU, or else the CPU, if none is named."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def free_bytes(device: str | torch.device | None = None) -> int:
    """Memory that can still be taken on a device; the first GPU, or else the CPU, if none is named.

    On the CPU it is what the system can give, or what the limit of a container leaves if that is less.
    """
    where = chosen_device(device)
    if where.type == "cuda":
        free, _total = torch.cuda.mem_get_info(where)
        limit = _limits.get(where.index or 0)
        return int(free) if limit is None else min(int(free), limit - torch.cuda.memory_reserved(where))
    limits = [_limits[0] - (_own_bytes() - _host_baseline)] if _limits else []
    return min([_of_the_system("MemAvailable"), *left_in_control_group(CONTROL_GROUP), *limits])


def total_bytes(device: str | torch.device | None = None) -> int:
    """Memory of a device if nobody used it; the first GPU, or else the CPU, if none is named.

    On the CPU it is that of the system, or the limit of a container if that is less.
    """
    where = chosen_device(device)
    if where.type == "cuda":
        _free, total = torch.cuda.mem_get_info(where)
        return int(total)
    return min([_of_the_system("MemTotal"), *limits_of_control_group(CONTROL_GROUP)])


def _own_bytes() -> int:
    """Return the memory of this process that is not a file's."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("RssAnon:")), 0)


def release_memory() -> None:
    """Give back what nobody holds any more: bitsandbytes' 4-bit weights hold themselves until garbage is collected."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def left_in_control_group(root: Path) -> Iterator[int]:
    """Bytes up to the limit of the control group mounted at `root`, where it has one; pages of files can be dropped.

    Version 2 has its files there, version 1 in the folder `memory`:
    https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    for folder, limit, used, prefix in _versions(root):
        try:
            left = _number(folder / limit) - _number(folder / used)
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        yield left + sum(int(statistics.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def limits_of_control_group(root: Path) -> Iterator[int]:
    """The limit in bytes of the control group mounted at `root`, where it has one."""
    for folder, limit, _used, _prefix in _versions(root):
        with suppress(OSError, ValueError):
            yield _number(folder / limit)


def _versions(root: Path) -> tuple[tuple[Path, str, str, str], ...]:
    """Of both: folder, the files of limit and usage, and what names in its statistics begin with."""
    return (
        (root, "memory.max", "memory.current", ""),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    )


def _number(file: Path) -> int:
    return int(file.read_text("ascii"))


def _of_the_system(figure: str) -> int:
    """A line of /proc/meminfo; where nobody tells it, nothing is refused."""
    try:
        lines = MEMINFO.read_text("ascii").splitlines()
    except OSError:
        return UNLIMITED
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith(f"{figure}:")), UNLIMITED)
