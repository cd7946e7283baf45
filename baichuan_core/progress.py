"""Progress reports for long operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """A report on the progress of a running operation.

    Attributes:
        fraction: Fraction of the whole operation that is done, in [0, 1]; never decreases within one operation.
        stage: The current stage, a lower-case word or short phrase ("loading", "training", "writing").
        metrics: Values to plot, by name, such as `{"loss": 1.9, "tokens_per_second": 812.0, "step": 40}`.
    """

    fraction: float
    stage: str
    metrics: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_progress: Progress) -> None:
    """Ignore a progress report (the default callback)."""


def scale_progress(on_progress: ProgressCallback, start: float, end: float) -> ProgressCallback:
    """Return a callback that maps an operation's progress to the range from `start` to `end` of a longer operation."""
    return lambda part: on_progress(Progress(start + (end - start) * part.fraction, part.stage, part.metrics))
