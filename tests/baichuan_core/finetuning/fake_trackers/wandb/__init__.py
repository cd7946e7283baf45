"""A stand-in for Weights & Biases that records what the Trainer's callback tells it."""

import os
from typing import Any

calls: list[tuple[str, Any]] = []
run: Any = None
config: dict[str, Any] = {}
VARIABLES = ("WANDB_MODE", "WANDB_DIR")


class Run:
    """The open run."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}

    def _label(self, **_: Any) -> None:
        pass


def init(**settings: Any) -> None:
    """Open a run."""
    global run  # noqa: PLW0603 - as the real package does
    run = Run()
    calls.append(("init", settings | {name: os.environ.get(name) for name in VARIABLES}))


def define_metric(*_: Any, **__: Any) -> None:
    """Accept which series is the axis of others."""


def log(values: dict[str, Any]) -> None:
    """Record a step."""
    calls.append(("log", values))


def finish(exit_code: int | None = None) -> None:
    """End the run."""
    global run  # noqa: PLW0603
    run = None
    calls.append(("finish", exit_code))
