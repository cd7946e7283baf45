"""How a running job looks in one line."""

from typing import Any

from cli.job_view import format_job_line


def test_sizes_have_units_and_missing_numbers_are_left_out() -> None:
    metrics = {"downloaded_bytes": 3_500_000_000, "total_bytes": 15_000_000_000.0, "loss": None, "epoch": 0.25}
    progress = {"fraction": 0.23, "stage": "downloading", "metrics": metrics}
    job: dict[str, Any] = {"id": "job-1", "kind": "pull", "state": "running", "progress": progress}
    line = format_job_line(job | {"waiting": None, "error": None, "model": "m"})
    assert line == "job-1  pull  running  23%  downloading  downloaded_bytes 3.5 GB  total_bytes 15.0 GB  epoch 0.25"
