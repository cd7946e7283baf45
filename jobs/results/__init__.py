"""Classes for the results of jobs, distinguished by `kind`, and for the progress of jobs.

Handlers build instances of these classes, so nothing else is ever stored. Rows outlive versions of the service: a
result that another version stored with other fields is returned as a plain object.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jobs.results.convert import ConvertResult
from jobs.results.evaluate import BenchmarkResult, PerplexityResult
from jobs.results.fields import Result
from jobs.results.finetune import FinetuneResult
from jobs.results.generate import GenerateResult
from jobs.results.preview import PreviewResult
from jobs.results.progress import JobProgress
from jobs.results.pull import PullResult
from jobs.results.quantize import QuantizationQuality, QuantizeResult
from jobs.results.serve import ServeResult

# `kind` is not declared as the discriminator, because OpenAPI allows only one class per value and `evaluate` has two.
AnyResult = (
    GenerateResult
    | QuantizeResult
    | ConvertResult
    | FinetuneResult
    | BenchmarkResult
    | PerplexityResult
    | PreviewResult
    | PullResult
    | ServeResult
)

SERVE_KIND = "serve"
RESULT_ADAPTER: TypeAdapter[AnyResult] = TypeAdapter(AnyResult)


def read_result(kind: str, stored: Mapping[str, Any] | None) -> AnyResult | Mapping[str, Any] | None:
    """Return a stored result as an instance of its class, or unchanged if another version stored other fields."""
    if stored is None:
        return None
    try:
        # Results stored by the first version have no kind.
        return RESULT_ADAPTER.validate_python({"kind": kind, **stored}, strict=False)
    except ValidationError:
        return stored


def read_progress(stored: Mapping[str, Any] | None) -> JobProgress | None:
    """Return stored progress; None if another version stored other fields, since the next report replaces it."""
    if stored is None:
        return None
    try:
        return JobProgress.model_validate(stored)
    except ValidationError:
        return None


def count_tokens(result: Mapping[str, Any]) -> int:
    """Return the number of tokens that a job processed, from its stored result; 0 for kinds that count no tokens.

    The tokens of a serve job are counted with its chats, whose API keys may differ from the job's.
    """
    if result.get("kind") == SERVE_KIND:
        return 0
    names = ("prompt_tokens", "completion_tokens", "tokens")
    return sum(value for name in names if isinstance(value := result.get(name), int))


__all__ = [
    "RESULT_ADAPTER",
    "AnyResult",
    "BenchmarkResult",
    "ConvertResult",
    "FinetuneResult",
    "GenerateResult",
    "JobProgress",
    "PerplexityResult",
    "PreviewResult",
    "PullResult",
    "QuantizationQuality",
    "QuantizeResult",
    "Result",
    "ServeResult",
    "count_tokens",
    "read_progress",
    "read_result",
]
