"""How a long operation tells its caller where it stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a running operation.

    Attributes:
        fraction: Share of the whole operation that is done, in [0, 1]; never decreases within one operation.
        stage: What is being done now, one lower-case word or short phrase ("loading", "training", "writing").
        metrics: Figures worth plotting, by name, e.g. ``{"loss": 1.9, "tokens_per_second": 812.0, "step": 40}``.
    """

    fraction: float
    stage: str
    metrics: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_progress: Progress) -> None:
    """The callback of a caller who does not want to know."""


def part_of(on_progress: ProgressCallback, start: float, end: float) -> ProgressCallback:
    """The callback of an operation that is the part from `start` to `end` of a longer one."""
    return lambda part: on_progress(Progress(start + (end - start) * part.fraction, part.stage, part.metrics))
