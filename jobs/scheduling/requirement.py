"""The resources that a job needs to run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Requirement:
    """The resources that a job needs, fixed at submission and stored with its row.

    Attributes:
        nodes: Number of machines that run it together.
        devices: Devices on each node; 0 if it needs only host memory.
        device_memory_bytes: Minimum memory on each device.
        reserve_bytes: Memory to reserve on each device, for the longest inputs that its spec allows. A smaller device
            is reserved as a whole.
        host_memory_bytes: Memory of the host on each node.
        exclusive: Whether its devices must run nothing else at the same time.
        labels: Labels that each node's worker must have.
        model: Key of the model that the job loads (`LoadedModel.key`); "" if it cannot use one that is already loaded.
            The key affects only which place is preferred, not which places are possible, so comparisons ignore it.
        workers: Ids of the workers that may run the job; if empty, any worker may.
        packages: Optional Python packages that each node must have.
    """

    nodes: int = 1
    devices: int = 1
    device_memory_bytes: int = 0
    reserve_bytes: int = 0
    host_memory_bytes: int = 0
    exclusive: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    model: str = field(default="", compare=False)
    workers: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> Self:
        """Read a stored requirement. Rows of the first schema have none, so their jobs get a whole device."""
        if not stored:
            return cls(exclusive=True)
        labels = tuple(sorted((str(key), str(value)) for key, value in stored["labels"].items()))
        lists = {name: tuple(stored.get(name, ())) for name in ("workers", "packages")}
        return cls(**{**stored, **lists, "labels": labels})

    def to_row(self) -> dict[str, Any]:
        """Return the requirement in the form that the database stores."""
        return {
            "nodes": self.nodes,
            "devices": self.devices,
            "device_memory_bytes": self.device_memory_bytes,
            "reserve_bytes": self.reserve_bytes,
            "host_memory_bytes": self.host_memory_bytes,
            "exclusive": self.exclusive,
            "labels": dict(self.labels),
            "model": self.model,
            "workers": list(self.workers),
            "packages": list(self.packages),
        }
