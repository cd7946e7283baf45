"""Loads models for evaluation."""

from pathlib import Path

from baichuan_core.checkpoint import ModelCache, ModelSource
from baichuan_core.model import BaichuanForCausalLM

from .options import BenchmarkOptions, EvaluatedModel, PerplexityOptions


def load_model_for_evaluation(
    model: EvaluatedModel, options: BenchmarkOptions | PerplexityOptions, models: ModelCache
) -> BaichuanForCausalLM:
    """Load the model with the dtype and device of `options`, or reuse it if `models` has already loaded it."""
    adapter = None if model.adapter is None else Path(model.adapter)
    return models.load(ModelSource(Path(model.checkpoint), adapter, options.dtype, options.device))
