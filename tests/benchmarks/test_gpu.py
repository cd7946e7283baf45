"""The GPU benchmark runs on any machine with tiny shapes."""

import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = (
    "copy bandwidth",
    "decode 7B nf4",
    "prefill 13B (ALiBi)",
    "weights 13B nf4, 8-bit head",
    "batch 7B, our engine",
    "train 7B full",
    "train 7B LoRA",
    "train 13B QLoRA",
)


@pytest.mark.alone
def test_every_benchmark_runs_at_tiny_shapes() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    for figure in FIGURES:
        assert f"| {figure}" in done.stdout
    assert "does not fit" not in done.stdout
    assert "(within 16 GB)" in done.stdout
