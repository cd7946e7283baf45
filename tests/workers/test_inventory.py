"""The inventory of a machine, with a recorded driver instead of a GPU."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.records import WorkerRecord
from jobs.service.pool import to_machine
from workers.inventory import DeclaredDevice, Inventory, Nvml, find_packages, read_declaration
from workers.inventory.nvml import is_visible

GB = 2**30


class NVMLError(Exception):
    """What the driver raises."""


class RecordedNvml:
    """A machine with an H100 and an older card that reports little, as their driver described them."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, driver: bool = True, processes: Sequence[tuple[int, int]] = ()) -> None:
        self._driver = driver
        self._processes = processes
        self.sessions = 0

    def nvmlInit(self) -> None:
        if not self._driver:
            raise NVMLError("Driver Not Loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return ["GPU-11111111", "GPU-22222222"][handle]

    def nvmlDeviceGetName(self, handle: int) -> str:
        return ["NVIDIA H100 80GB HBM3", "NVIDIA T400"][handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=[80 * GB, 4 * GB][handle], used=[30 * GB, GB // 2][handle])

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return [(9, 0), (7, 5)][handle]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle == 1:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetTemperature(self, handle: int, _sensor: int) -> int:
        return [61, 40][handle]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        if handle == 1:
            raise NVMLError("Not Supported")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self._processes]


def inventory(recorded: RecordedNvml, declared: Sequence[DeclaredDevice] = ()) -> Inventory:
    return Inventory(declared, Nvml(recorded))


@pytest.fixture(autouse=True)
def no_hidden_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_every_metric_of_a_device_is_reported() -> None:
    recorded = RecordedNvml(processes=[(os.getpid(), 10 * GB), (1, 19 * GB)])
    first, second = inventory(recorded).list_devices(runners={os.getpgid(0)})
    assert first == {
        "type": "cuda",
        "index": 0,
        "uuid": "GPU-11111111",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 80 * GB,
        "used_bytes": 30 * GB,
        "used_by_others_bytes": 20 * GB,  # all but the 10 GB of our process group
        "utilization": 97,
        "temperature": 61,
        "capability": "9.0",
    }
    assert (second["utilization"], second["used_by_others_bytes"]) == (None, GB // 2)
    assert recorded.sessions == 0


def test_a_device_that_others_use_is_seen_by_the_scheduler() -> None:
    devices = inventory(RecordedNvml()).list_devices()
    worker = WorkerRecord("w", "h", 1, "active", ["generate"], 4, devices, 1, 1, host={"memory_bytes": 64 * GB})
    busy, idle = to_machine(worker).devices
    assert (busy.is_used_by_others, busy.used_by_others_bytes) == (True, 30 * GB)
    assert not idle.is_used_by_others


def test_a_machine_without_a_driver_is_one_device_with_memory_and_cores() -> None:
    (cpu,) = inventory(RecordedNvml(driver=False)).list_devices()
    assert (cpu["type"], cpu["cores"]) == ("cpu", len(os.sched_getaffinity(0)))
    assert cpu["memory_bytes"] > 0


def test_slots_suit_the_devices_unless_they_are_set() -> None:
    assert inventory(RecordedNvml(driver=False)).choose_slot_count(0) == 1
    assert inventory(RecordedNvml()).choose_slot_count(0) == 8
    assert inventory(RecordedNvml()).choose_slot_count(3) == 3


def test_declared_devices_replace_what_is_found_and_keep_what_is_measured() -> None:
    declared = [DeclaredDevice(type="cuda", index=1, uuid="GPU-22222222", name="lent", memory_bytes=2 * GB)]
    (device,) = inventory(RecordedNvml(), declared).list_devices()
    assert (device["name"], device["memory_bytes"], device["capability"]) == ("lent", 2 * GB, "7.5")


@pytest.mark.parametrize(
    ("listed", "visible"),
    [(None, True), ("0,1", True), ("1", False), ("", False), ("GPU-1111", True), ("GPU-2222", False), ("GPU-", False)],
)
def test_hidden_devices_are_left_out(listed: str | None, visible: bool) -> None:
    assert is_visible(0, "GPU-11111111", listed) is visible


def entry(**fields: Any) -> dict[str, Any]:
    return {"type": "cuda", "index": 0, "uuid": "GPU-a", "name": "A", "memory_bytes": GB, **fields}


def test_a_declaration_is_json_or_the_path_of_a_file(tmp_path: Path) -> None:
    text = json.dumps([entry(), entry(index=1, uuid="GPU-b")])
    path = tmp_path / "devices.json"
    path.write_text(text)
    assert read_declaration(str(path)) == read_declaration(text)
    assert [device.uuid for device in read_declaration(text)] == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/nowhere.json", "neither a JSON list nor a readable file"),
        ("[", "not valid JSON"),
        ("[]", "at least 1 item"),
        (json.dumps([entry(type="tpu")]), "device 0.type"),
        (json.dumps([entry(), entry(memory_bytes=0)]), "device 1.memory_bytes"),
        (json.dumps([entry(speed=3)]), "device 0.speed"),
        (json.dumps([entry(), entry(index=1)]), "the same uuid"),
        (json.dumps([entry(), entry(uuid="GPU-b")]), "the same index"),
    ],
)
def test_errors_of_a_declaration_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_declaration(text)


def test_optional_packages_are_found_and_folders_of_their_names_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").touch()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert find_packages() == ["mlflow"]
