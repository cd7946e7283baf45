"""Progress of a generation run."""

import time
from collections import Counter
from collections.abc import Sequence

from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.outputs import StepOutputs
from baichuan_core.progress import Progress, ProgressCallback

PROGRESS_AFTER_LOADING = 0.05  # as a fraction of the whole run
REPORT_INTERVAL_SECONDS = 0.1


class ProgressMeter:
    """A meter that reports progress as a fraction of the run's token budget, the sum of all completions' token limits.

    A completion that ends early counts as if it had reached its limit.

    Attributes:
        generated: Number of tokens generated so far.
    """

    def __init__(self, requests: Sequence[EncodedRequest], on_progress: ProgressCallback) -> None:
        self.generated = 0
        self._limits = {(one.index, one.sample): one.limit for one in requests}
        self._budget = sum(self._limits.values())
        self._open = Counter(one.index for one in requests)
        self._requests = len(self._open)
        self._finished_budget = 0  # sum of the token limits of finished completions
        self._finished_tokens = 0
        self._fraction = PROGRESS_AFTER_LOADING
        self._on_progress = on_progress
        self._started = self._reported = time.monotonic()

    def record_step(self, step: StepOutputs) -> None:
        """Count a step's tokens; report progress if a completion finished or `REPORT_INTERVAL_SECONDS` have passed."""
        self.generated += step.token_count
        for completion in step.completions:
            self._finished_budget += self._limits[completion.index, completion.sample]
            self._finished_tokens += completion.completion_tokens
            self._open[completion.index] -= 1
        now = time.monotonic()
        if step.completions or now - self._reported >= REPORT_INTERVAL_SECONDS:
            self._reported = now
            self._report_progress(now)

    def _report_progress(self, now: float) -> None:
        running = self.generated - self._finished_tokens
        fraction = min(1.0, (self._finished_budget + running) / self._budget)
        self._fraction = max(self._fraction, PROGRESS_AFTER_LOADING + (1 - PROGRESS_AFTER_LOADING) * fraction)
        done = self._requests - sum(map(bool, self._open.values()))
        rate = self.generated / max(now - self._started, 1e-9)
        metrics = {"requests_done": float(done), "tokens_per_second": rate}
        self._on_progress(Progress(self._fraction, "generating", metrics))
