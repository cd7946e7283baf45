"""Settings of a worker process, and what its own process may load."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from workers.settings import WorkerSettings


def test_kinds_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAICHUAN_WORKER_KINDS", "generate, convert")
    monkeypatch.setenv("BAICHUAN_WORKER_SLOTS", "2")
    settings = WorkerSettings()
    assert (settings.kinds, settings.slots) == (("generate", "convert"), 2)


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ValidationError, match="unknown kinds paint; the known kinds are generate"):
        WorkerSettings(kinds=("paint",))


def test_every_worker_has_its_own_name() -> None:
    assert WorkerSettings().id != WorkerSettings().id


def test_labels_are_names_with_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAICHUAN_WORKER_LABELS", "gpu=a100, room=2")
    assert WorkerSettings().labels == {"gpu": "a100", "room": "2"}
    monkeypatch.setenv("BAICHUAN_WORKER_LABELS", "a100")
    with pytest.raises(ValidationError, match="'a100' is not in the format name=value"):
        WorkerSettings()
    monkeypatch.setenv("BAICHUAN_WORKER_LABELS", "gpu=a100,gpu=h100")
    with pytest.raises(ValidationError, match="a label name appears twice"):
        WorkerSettings()


def test_devices_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    device = '{"type": "cuda", "index": 0, "uuid": "GPU-a", "name": "A", "memory_bytes": 1024}'
    monkeypatch.setenv("BAICHUAN_WORKER_DEVICES", f"[{device}]")
    assert [each.uuid for each in WorkerSettings().devices] == ["GPU-a"]
    monkeypatch.setenv("BAICHUAN_WORKER_DEVICES", f"[{device}, {device}]")
    with pytest.raises(ValidationError, match="two devices have the same uuid"):
        WorkerSettings()


def test_the_process_of_the_worker_loads_no_torch() -> None:
    program = "import sys, workers.__main__; print({'torch', 'transformers'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == "set()"
