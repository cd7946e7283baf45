"""A stand-in for MLflow that records what the Trainer's callback tells it."""

from importlib import import_module
from typing import Any

import_module("mlflow.utils.validation")  # the callback expects that it is loaded
__version__ = "3.0.0"
calls: list[tuple[str, Any]] = []
_uri: str | None = None
_run: object | None = None


def is_tracking_uri_set() -> bool:
    """Whether the run has a place to report to."""
    return _uri is not None


def set_tracking_uri(uri: str) -> None:
    """Set where the run reports to."""
    global _uri  # noqa: PLW0603 - as the real package does
    _uri = uri
    calls.append(("set_tracking_uri", uri))


def active_run() -> Any:
    """Return the open run."""
    return _run


def start_run(**_: Any) -> None:
    """Open a run; the callback reads its id only to log it."""
    global _run  # noqa: PLW0603

    class Info:
        run_id = "run"

    _run = type("Run", (), {"info": Info})
    calls.append(("start_run", None))


def log_params(values: dict[str, Any], **_: Any) -> None:
    """Record options."""
    calls.append(("log_params", values))


def log_metrics(*, metrics: dict[str, Any], step: int, **_: Any) -> None:
    """Record a step."""
    calls.append(("log_metrics", metrics | {"step": step}))


def end_run(status: str = "FINISHED") -> None:
    """End the run."""
    global _run  # noqa: PLW0603
    _run = None
    calls.append(("end_run", status))
