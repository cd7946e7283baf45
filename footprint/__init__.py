"""Estimate the memory that operations on Baichuan models need, by arithmetic alone: without torch or a loaded model.

The API uses it at submission, the scheduler at placement, a runner before it loads a model, and the CLI offline.
"""

from .breakdown import GIB, Footprint, Place, in_gib
from .finetuning import FinetuningMethod, Training, finetuning
from .inference import cache_bytes, inference, max_kept_prefix_tokens, scoring
from .precision import Dtype, Precision, Quantization
from .remedies import PRECISIONS, smaller_models, smaller_trainings
from .rewriting import calibrating, converting, quantizing
from .shape import PRESETS, Shape, ShapeError, read_config

__all__ = [
    "GIB",
    "PRECISIONS",
    "PRESETS",
    "Dtype",
    "FinetuningMethod",
    "Footprint",
    "Place",
    "Precision",
    "Quantization",
    "Shape",
    "ShapeError",
    "Training",
    "cache_bytes",
    "calibrating",
    "converting",
    "finetuning",
    "in_gib",
    "inference",
    "max_kept_prefix_tokens",
    "quantizing",
    "read_config",
    "scoring",
    "smaller_models",
    "smaller_trainings",
]
