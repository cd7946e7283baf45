"""The memory that a worker reports."""

from pathlib import Path

import pytest

from workers.inventory import read_host_resources


def test_the_limit_of_a_container_is_the_memory_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baichuan_core.host_memory.CGROUP_FOLDER", tmp_path)
    whole = read_host_resources()
    assert 0 < whole["available_bytes"] <= whole["memory_bytes"]
    (tmp_path / "memory.max").write_text("1000000")
    (tmp_path / "memory.current").write_text("900000")
    (tmp_path / "memory.stat").write_text("active_file 20000\ninactive_file 30000\n")
    limited = read_host_resources()
    assert (limited["memory_bytes"], limited["available_bytes"]) == (1_000_000, 150_000)
