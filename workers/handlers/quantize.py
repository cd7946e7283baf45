"""Quantize a checkpoint."""

from dataclasses import asdict

from baichuan_core.quantization import QuantizationOptions, quantize
from jobs.specs import QuantizeSpec
from workers.handlers.contract import Context, Outcome
from workers.handlers.produced import produced_model


def output_bytes(_spec: QuantizeSpec, checkpoint_bytes: int) -> int:
    """A quarter at least, for 4 bits from 16; the engine checks exactly once it has looked at the tensors."""
    return checkpoint_bytes // 4


def run(spec: QuantizeSpec, context: Context) -> Outcome:
    """Write the quantized checkpoint as a model."""
    options = QuantizationOptions(
        method=spec.method,
        double_quantization=spec.double_quantization,
        compute_dtype=spec.compute_dtype,
        quantize_head=spec.quantize_head,
    )
    report = quantize(context.models["model"], context.model_output, options, on_progress=context.report)
    return Outcome(asdict(report), produced_model(context))
