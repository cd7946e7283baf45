"""Progress of a generation run, in tokens of its budget."""

import time
from collections import Counter
from collections.abc import Sequence

from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.outputs import Step
from baichuan_core.progress import Progress, ProgressCallback

LOADED = 0.05  # share of the run that is over when the model is there
SECONDS_BETWEEN_REPORTS = 0.1


class Meter:
    """Counts tokens against the limits of all completions; those that end early give back what they did not use.

    Attributes:
        generated: Tokens so far.
    """

    def __init__(self, requests: Sequence[EncodedRequest], on_progress: ProgressCallback) -> None:
        self.generated = 0
        self._limits = {(one.index, one.sample): one.limit for one in requests}
        self._budget = sum(self._limits.values())
        self._open = Counter(one.index for one in requests)
        self._requests = len(self._open)
        self._spent = 0  # limits of finished completions
        self._finished_tokens = 0
        self._fraction = LOADED
        self._on_progress = on_progress
        self._started = self._reported = time.monotonic()

    def take(self, step: Step) -> None:
        """Counts a step and reports now and then, and whenever a completion has finished."""
        self.generated += step.tokens
        for completion in step.completions:
            self._spent += self._limits[completion.index, completion.sample]
            self._finished_tokens += completion.completion_tokens
            self._open[completion.index] -= 1
        now = time.monotonic()
        if step.completions or now - self._reported >= SECONDS_BETWEEN_REPORTS:
            self._reported = now
            self._report(now)

    def _report(self, now: float) -> None:
        running = self.generated - self._finished_tokens
        share = min(1.0, (self._spent + running) / self._budget)
        self._fraction = max(self._fraction, LOADED + (1 - LOADED) * share)
        done = self._requests - sum(map(bool, self._open.values()))
        rate = self.generated / max(now - self._started, 1e-9)
        metrics = {"requests_done": float(done), "tokens_per_second": rate}
        self._on_progress(Progress(self._fraction, "generating", metrics))
