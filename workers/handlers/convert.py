"""Handler for convert jobs, which convert a checkpoint to another format."""

from dataclasses import asdict

from baichuan_core.conversion import ConversionReport, convert
from jobs.models.details import LlamaDetails
from jobs.models.directories import LLAMA_KIND
from jobs.results import ConvertResult
from jobs.service.attempts import ProducedModel
from jobs.specs import ConvertSpec
from workers.handlers.contract import MODEL_FOLDER, HandlerContext, HandlerOutcome
from workers.handlers.produced import describe_produced_model

# File sizes relative to 16-bit weights; the engine makes an exact check once it has read the tensors.
GGUF_SIZE_RATIOS = {"f32": 2.0, "q8_0": 0.54, "q5_1": 0.38, "q5_0": 0.35, "q4_1": 0.32, "q4_0": 0.29}


def estimate_output_bytes(spec: ConvertSpec, checkpoint_bytes: int) -> int:
    """Estimate the output size: the input size, except for GGUF types with fewer or more bits per weight."""
    return round(checkpoint_bytes * GGUF_SIZE_RATIOS.get(spec.gguf_type or "f16", 1.0))


def run(spec: ConvertSpec, context: HandlerContext) -> HandlerOutcome[ConvertResult]:
    """Write the converted checkpoint as a model."""
    report = convert(
        context.models["model"],
        context.model_output,
        spec.target,
        gguf_type=spec.gguf_type,
        dtype=spec.dtype,
        adapter=context.models.get("adapter"),
        on_progress=context.report,
    )
    made = _describe_llama_model(report) if spec.target == "llama" else describe_produced_model(context)
    return HandlerOutcome(ConvertResult(**asdict(report)), made)


def _describe_llama_model(report: ConversionReport) -> ProducedModel:
    """Return the converted model as files for download, because no job can use a Llama model."""
    return ProducedModel(MODEL_FOLDER, LLAMA_KIND, LlamaDetails(bytes=report.bytes_after).model_dump())
