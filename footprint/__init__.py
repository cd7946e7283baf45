"""How much memory a Baichuan model needs for what, by arithmetic alone: no torch, nothing is loaded.

The API asks it at submission, the scheduler at placement, a runner before it loads, and the command line offline.
"""

from .breakdown import GIB, Footprint, Place, in_gib
from .finetuning import FinetuningMethod, Training, finetuning
from .inference import cache_bytes, inference, kept_beginnings, scoring
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
    "kept_beginnings",
    "quantizing",
    "read_config",
    "scoring",
    "smaller_models",
    "smaller_trainings",
]
