"""Shows jobs in human-readable form."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.text import Text

from baichuan_client.schemas import FINAL_STATES

STATE_COLORS = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "pausing": "yellow",
    "paused": "yellow",
    "running": "cyan",
}
METRIC_LABELS = {"tokens_per_second": "tokens/s", "learning_rate": "lr"}
BAR_WIDTH = 30
LEADING_METRICS = ("loss", "tokens_per_second")


def is_final(job: Any) -> bool:
    """Return whether the job has ended."""
    return job["state"] in FINAL_STATES


def format_job_line(job: Any) -> str:
    """Return the job as one line."""
    parts = [job["id"], job["kind"], job["state"]]
    if progress := _get_current_progress(job):
        parts += [f"{progress['fraction']:.0%}", progress["stage"]]
        parts += [f"{name} {value}" for name, value in _format_metrics(progress)]
    if job["waiting"]:
        parts.append(job["waiting"]["message"])
    if job["state"] == "succeeded" and job["model"]:
        parts.append(f"-> model {job['model']}")
    if job["error"]:
        parts.append(format_error(job))
    return "  ".join(part for part in parts if part)


def format_error(job: Any) -> str:
    """Return the job's error as `code: message`."""
    return f"{job['error']['code']}: {job['error']['message']}"


def build_job_panel(jobs: Sequence[Any]) -> RenderableType:
    """Build a live display of jobs: a line for each, followed by its progress bar and its error, if any."""
    return Group(*(part for job in jobs for part in _build_job_lines(job)))


def _build_job_lines(job: Any) -> list[RenderableType]:
    progress = _get_current_progress(job) or {}
    fraction = 1.0 if job["state"] == "succeeded" else progress.get("fraction", 0.0)
    colour = STATE_COLORS.get(job["state"], "")
    head = Text.assemble(job["id"], "  ", job["kind"], "  ", (job["state"], colour))
    figures = [f"{fraction:4.0%}", progress.get("stage", ""), *(" ".join(pair) for pair in _format_metrics(progress))]
    filled = round(fraction * BAR_WIDTH)
    bar = Text.assemble(
        ("━" * filled, colour), ("━" * (BAR_WIDTH - filled), "bright_black"), no_wrap=True, overflow="ellipsis"
    )
    bar.append("  ".join(["", *filter(None, figures)]), style="default")
    return [head, bar, Text(format_error(job), style="red")] if job["error"] else [head, bar]


def _get_current_progress(job: Any) -> Any:
    return job["progress"] if job["state"] in ("running", "cancelling", "pausing", "paused") else None


def _format_metrics(progress: Any) -> list[tuple[str, str]]:
    """Return the metrics as text: loss and speed first, then the others."""
    metrics = progress.get("metrics") or {}
    names = [name for name in LEADING_METRICS if name in metrics]
    names += [name for name in metrics if name not in LEADING_METRICS]
    return [
        (METRIC_LABELS.get(name, name), _format_metric(name, metrics[name]))
        for name in names
        if metrics[name] is not None
    ]


def _format_metric(name: str, value: float) -> str:
    return decimal(int(value)) if name.endswith("_bytes") else f"{value:.4g}"
