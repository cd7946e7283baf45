"""Handler for evaluate jobs, which evaluate a model on a benchmark or on a text."""

from dataclasses import asdict
from typing import Any

from baichuan_core.evaluation import (
    BenchmarkOptions,
    BenchmarkReport,
    EvaluatedModel,
    PerplexityOptions,
    evaluate_benchmark,
    evaluate_perplexity,
)
from jobs.results import BenchmarkResult, PerplexityResult
from jobs.specs import EvaluateSpec
from workers.handlers.contract import HandlerContext, HandlerOutcome


def estimate_output_bytes(_spec: EvaluateSpec, _checkpoint_bytes: int) -> int:
    """Return 0, because metrics and answers take little space."""
    return 0


def run(spec: EvaluateSpec, context: HandlerContext) -> HandlerOutcome[BenchmarkResult | PerplexityResult]:
    """Write evaluation.json, evaluation.md and, for a benchmark, answers.jsonl."""
    name = f"{spec.model} + {spec.adapter}" if spec.adapter else spec.model
    model = EvaluatedModel(context.models["model"], context.models.get("adapter"), name)
    other = EvaluatedModel(context.models["compare_with"], name=spec.compare_with) if spec.compare_with else None
    if spec.benchmark == "perplexity":
        text = PerplexityOptions(window=spec.window, dtype=spec.dtype, batch_tokens=spec.batch_tokens)
        measured = evaluate_perplexity(
            model,
            context.files["data_file"],
            context.output,
            text,
            compare_with=other,
            models=context.loaded,
            on_progress=context.report,
        )
        return HandlerOutcome(PerplexityResult(**asdict(measured)))
    options = BenchmarkOptions(
        benchmark=spec.benchmark,
        split=spec.split,
        shots=spec.shots,
        subjects=spec.subjects,
        limit=spec.limit,
        dtype=spec.dtype,
        batch_tokens=spec.batch_tokens,
    )
    report = evaluate_benchmark(
        model,
        context.files["data_file"],
        context.output,
        options,
        compare_with=other,
        checkpoints=context.checkpoints,
        resume_from=context.earlier_checkpoints,
        models=context.loaded,
        on_progress=context.report,
    )
    return HandlerOutcome(BenchmarkResult(**_summarize(report)))


def _summarize(report: BenchmarkReport) -> dict[str, Any]:
    """Return the report without the per-subject results, which are in evaluation.json."""
    summary = asdict(report)
    for part in ("model", "compared_with", "comparison"):
        if summary[part] is not None:
            del summary[part]["subjects"]
    return summary
