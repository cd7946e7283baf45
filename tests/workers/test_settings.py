"""Settings of a worker process, and what its own process may load."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from workers.inventory import devices
from workers.settings import WorkerSettings


def test_kinds_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAICHUAN_WORKER_KINDS", "generate, convert")
    monkeypatch.setenv("BAICHUAN_WORKER_SLOTS", "2")
    settings = WorkerSettings()
    assert (settings.kinds, settings.slots) == (("generate", "convert"), 2)


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ValidationError, match="unknown kinds paint; known are generate"):
        WorkerSettings(kinds=("paint",))


def test_every_worker_has_a_name_of_its_own() -> None:
    assert WorkerSettings().id != WorkerSettings().id


def test_a_device_says_how_much_memory_it_has() -> None:
    assert all(device["memory_bytes"] > 0 for device in devices())


def test_the_process_of_the_worker_loads_no_torch() -> None:
    program = "import sys, workers.__main__; print({'torch', 'transformers', 'baichuan_core'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == "set()"
