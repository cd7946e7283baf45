"""Loads a model that is to be evaluated."""

from baichuan_core.checkpoint import load_model
from baichuan_core.model import BaichuanForCausalLM

from .options import BenchmarkOptions, EvaluatedModel, PerplexityOptions


def load_evaluated(model: EvaluatedModel, options: BenchmarkOptions | PerplexityOptions) -> BaichuanForCausalLM:
    """The model for inference, in the dtype and on the device that the options say."""
    loaded = load_model(model.checkpoint, dtype=options.dtype, device=options.device, adapter=model.adapter)
    return loaded.prepack()
