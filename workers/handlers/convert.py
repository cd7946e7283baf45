"""Convert a checkpoint to another form."""

from dataclasses import asdict

from baichuan_core.conversion import convert
from jobs.specs import ConvertSpec
from workers.handlers.contract import Context, Outcome
from workers.handlers.produced import produced_model


def output_bytes(_spec: ConvertSpec, checkpoint_bytes: int) -> int:
    """As large as the input."""
    return checkpoint_bytes


def run(spec: ConvertSpec, context: Context) -> Outcome:
    """Write the converted checkpoint as a model."""
    report = convert(context.models["model"], context.model_output, spec.target, on_progress=context.report)
    return Outcome(asdict(report), produced_model(context))
