"""Measures the memory of the machine, or of the container in which this process runs, without torch."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMINFO_FILE = Path("/proc/meminfo")
CGROUP_FOLDER = Path("/sys/fs/cgroup")
UNLIMITED_BYTES = 2**63
KIB = 1024


def available_host_bytes() -> int:
    """Return the system's available memory in bytes, or the memory left under a container's limit if that is less."""
    return min([_read_meminfo("MemAvailable"), *cgroup_free_bytes(CGROUP_FOLDER)])


def total_host_bytes() -> int:
    """Return the memory of the system in bytes, or a container's limit if that is less."""
    return min([_read_meminfo("MemTotal"), *cgroup_limits(CGROUP_FOLDER)])


def cgroup_free_bytes(root: Path) -> Iterator[int]:
    """Yield the bytes left under the limit of the cgroup mounted at `root`, if it has one; page cache counts as free.

    Version 2 keeps its files in `root`, version 1 in the folder `memory`:
    https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    for folder, limit, used, prefix in _list_cgroup_layouts(root):
        try:
            left = _read_number(folder / limit) - _read_number(folder / used)
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
        except (OSError, ValueError):  # the file does not exist, or contains "max", which means no limit
            continue
        yield left + sum(int(statistics.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limit in bytes of the cgroup mounted at `root`, if it has one."""
    for folder, limit, _used, _prefix in _list_cgroup_layouts(root):
        with suppress(OSError, ValueError):
            yield _read_number(folder / limit)


def _list_cgroup_layouts(root: Path) -> tuple[tuple[Path, str, str, str], ...]:
    """Return (folder, limit file, usage file, prefix of the statistics' names) for cgroup v2, then for v1."""
    return (
        (root, "memory.max", "memory.current", ""),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    )


def _read_number(file: Path) -> int:
    return int(file.read_text("ascii"))


def _read_meminfo(name: str) -> int:
    """Return a value of /proc/meminfo in bytes; `UNLIMITED_BYTES` if it is not available."""
    try:
        lines = MEMINFO_FILE.read_text("ascii").splitlines()
    except OSError:
        return UNLIMITED_BYTES
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith(f"{name}:")), UNLIMITED_BYTES)
