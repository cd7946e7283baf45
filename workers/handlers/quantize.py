"""Handler for quantize jobs, which quantize a checkpoint with bitsandbytes."""

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from baichuan_core.progress import scale_progress
from baichuan_core.quantization import (
    Candidate,
    QualityReport,
    QuantizationOptions,
    QuantizationReport,
    quality_report,
    quantize,
    read_quality_text,
)
from jobs.results import QuantizationQuality, QuantizeResult
from jobs.specs import QuantizeSpec
from workers.handlers.calibration_data import read_calibration
from workers.handlers.contract import HandlerContext, HandlerOutcome
from workers.handlers.produced import describe_produced_model

PROGRESS_AFTER_QUANTIZING = 0.5  # fraction of the job that is done when the quality report begins
PROGRESS_AFTER_CALIBRATING = 0.9
BLOCKS_FOLDER = "calibration"


def estimate_output_bytes(spec: QuantizeSpec, checkpoint_bytes: int) -> int:
    """Estimate the minimum output size: a quarter of the input (4 of 16 bits); the engine makes an exact check later.

    A calibration keeps its finished blocks until it ends, and its report needs an uncalibrated copy for comparison.
    """
    return checkpoint_bytes // 4 * (1 + spec.calibration + (spec.calibration and spec.quality_report))


def run(spec: QuantizeSpec, context: HandlerContext) -> HandlerOutcome[QuantizeResult]:
    """Write the quantized checkpoint as a model, and a report on the quality loss next to it."""
    checkpoint, text = context.models["model"], context.files.get("quality_text_file")
    if text is not None:
        read_quality_text(checkpoint, text)  # fail early if the text is unusable
    calibration = read_calibration(spec, context) if spec.calibration else None
    options = QuantizationOptions(
        method=spec.method,
        double_quantization=spec.double_quantization,
        compute_dtype=spec.compute_dtype,
        quantize_head=spec.quantize_head,
        calibration=calibration,
    )
    quantized = PROGRESS_AFTER_QUANTIZING if calibration is None else PROGRESS_AFTER_CALIBRATING
    share = quantized if spec.quality_report else 1.0
    report = quantize(
        checkpoint,
        context.model_output,
        options,
        checkpoints=context.checkpoints / BLOCKS_FOLDER,
        resume_from=_find_earlier_blocks(context),
        on_progress=scale_progress(context.report, 0.0, share),
    )
    quality = _summarize(_measure_quality(options, report, context, share)) if spec.quality_report else None
    return HandlerOutcome(QuantizeResult(**asdict(report), quality=quality), describe_produced_model(context))


def _measure_quality(
    options: QuantizationOptions, report: QuantizationReport, context: HandlerContext, done: float
) -> QualityReport:
    """Compare the result with the original, and a calibrated result also with a temporary uncalibrated one."""
    checkpoint, method = context.models["model"], options.method
    with TemporaryDirectory(dir=context.checkpoints) as folder:
        candidates = []
        if options.calibration is not None:
            plain = Path(folder) / "plain"
            errors = quantize(checkpoint, plain, replace(options, calibration=None)).relative_errors
            candidates.append(Candidate(method, plain, errors))
        name = method if options.calibration is None else f"{method}, calibrated"
        candidates.append(Candidate(name, context.model_output, report.relative_errors))
        return quality_report(
            checkpoint,
            candidates,
            context.output,
            text=context.files.get("quality_text_file"),
            models=context.loaded,
            on_progress=scale_progress(context.report, done, 1.0),
        )


def _find_earlier_blocks(context: HandlerContext) -> Path | None:
    """Return the folder with the blocks that an earlier attempt has calibrated."""
    folders = (folder / BLOCKS_FOLDER for folder in context.earlier_checkpoints)
    return next((folder for folder in folders if any(folder.glob("block-*.safetensors"))), None)


def _summarize(quality: QualityReport) -> QuantizationQuality:
    """Return the report without the errors of individual weights, which the result already contains."""
    summary = asdict(quality)
    for model in summary["models"]:
        del model["relative_errors"]
    return QuantizationQuality(**summary)
