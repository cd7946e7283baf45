"""Progress of one part of an evaluation as progress of the whole."""

from baichuan_core.progress import Progress, ProgressCallback


def share_of(on_progress: ProgressCallback, before: float, parts: float) -> ProgressCallback:
    """A callback for one of `parts` equal parts, `before` of which are done."""
    return lambda progress: on_progress(Progress((before + progress.fraction) / parts, progress.stage))
