"""Quantize a checkpoint."""

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
from workers.handlers.contract import Context, Outcome
from workers.handlers.produced import describe_produced_model

QUANTIZED = 0.5  # progress at which the quality report begins
CALIBRATED = 0.9
FOLDER = "calibration"


def output_bytes(spec: QuantizeSpec, checkpoint_bytes: int) -> int:
    """Estimate the output: at least a quarter, for 4 bits from 16; the engine makes an exact check later.

    A calibration keeps its finished blocks until its end, and its report needs a plain copy for comparison.
    """
    return checkpoint_bytes // 4 * (1 + spec.calibration + (spec.calibration and spec.quality_report))


def run(spec: QuantizeSpec, context: Context) -> Outcome[QuantizeResult]:
    """Write the quantized checkpoint as a model, and a report on the loss of quality next to it."""
    checkpoint, text = context.models["model"], context.files.get("quality_text_file")
    if text is not None:
        read_quality_text(checkpoint, text)  # fail before the work if it cannot be used
    calibration = read_calibration(spec, context) if spec.calibration else None
    options = QuantizationOptions(
        method=spec.method,
        double_quantization=spec.double_quantization,
        compute_dtype=spec.compute_dtype,
        quantize_head=spec.quantize_head,
        calibration=calibration,
    )
    share = 1.0 if not spec.quality_report else QUANTIZED if calibration is None else CALIBRATED
    report = quantize(
        checkpoint,
        context.model_output,
        options,
        checkpoints=context.checkpoints / FOLDER,
        resume_from=_find_earlier_blocks(context),
        on_progress=scale_progress(context.report, 0.0, share),
    )
    quality = _summarize(_measure_quality(options, report, context, share)) if spec.quality_report else None
    return Outcome(QuantizeResult(**asdict(report), quality=quality), describe_produced_model(context))


def _measure_quality(
    options: QuantizationOptions, report: QuantizationReport, context: Context, done: float
) -> QualityReport:
    """Compare the result with the original, and if calibrated also with a plain one, which is deleted afterwards."""
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


def _find_earlier_blocks(context: Context) -> Path | None:
    """Return the folder of the blocks that an earlier attempt has calibrated."""
    folders = (folder / FOLDER for folder in context.earlier_checkpoints)
    return next((folder for folder in folders if any(folder.glob("block-*.safetensors"))), None)


def _summarize(quality: QualityReport) -> QuantizationQuality:
    """Return the report without the errors of individual weights, which the result already contains."""
    summary = asdict(quality)
    for model in summary["models"]:
        del model["relative_errors"]
    return QuantizationQuality(**summary)
