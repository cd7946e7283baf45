"""Load models for evaluation."""

from baichuan_core.checkpoint import load_model
from baichuan_core.model import BaichuanForCausalLM

from .options import BenchmarkOptions, EvaluatedModel, PerplexityOptions


def load_for_evaluation(model: EvaluatedModel, options: BenchmarkOptions | PerplexityOptions) -> BaichuanForCausalLM:
    """Load a model for inference with the dtype and device from the options."""
    loaded = load_model(model.checkpoint, dtype=options.dtype, device=options.device, adapter=model.adapter)
    return loaded.prepack()
