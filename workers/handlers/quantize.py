"""Quantize a checkpoint."""

from dataclasses import asdict
from typing import Any

from baichuan_core.progress import part_of
from baichuan_core.quantization import (
    Candidate,
    QualityReport,
    QuantizationOptions,
    quality_report,
    quantize,
    read_quality_text,
)
from jobs.specs import QuantizeSpec
from workers.handlers.contract import Context, Outcome
from workers.handlers.produced import produced_model

QUANTIZED = 0.5  # share of the job that is over when the report begins


def output_bytes(_spec: QuantizeSpec, checkpoint_bytes: int) -> int:
    """A quarter at least, for 4 bits from 16; the engine checks exactly once it has looked at the tensors."""
    return checkpoint_bytes // 4


def run(spec: QuantizeSpec, context: Context) -> Outcome:
    """Write the quantized checkpoint as a model, and a report on what it cost beside it."""
    checkpoint, text = context.models["model"], context.files.get("quality_text_file")
    if text is not None:
        read_quality_text(checkpoint, text)  # one that cannot be used is told before the work
    options = QuantizationOptions(
        method=spec.method,
        double_quantization=spec.double_quantization,
        compute_dtype=spec.compute_dtype,
        quantize_head=spec.quantize_head,
    )
    share = QUANTIZED if spec.quality_report else 1.0
    report = quantize(checkpoint, context.model_output, options, on_progress=part_of(context.report, 0.0, share))
    result = asdict(report)
    if spec.quality_report:
        quality = quality_report(
            checkpoint,
            [Candidate(spec.method, context.model_output, report.relative_errors)],
            context.output,
            text=text,
            on_progress=part_of(context.report, share, 1.0),
        )
        result["quality"] = _summary(quality)
    return Outcome(result, produced_model(context))


def _summary(quality: QualityReport) -> dict[str, Any]:
    """The report without the errors of single weights, which the result has already."""
    summary = asdict(quality)
    for model in summary["models"]:
        del model["relative_errors"]
    return summary
