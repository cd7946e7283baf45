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
from .sharding import TRAINING_STRATEGIES, RankFootprint, TrainingStrategy, rank_footprint
from .strategies import Cluster, StrategyChoice, choose_strategy, explain_misfit

__all__ = [
    "GIB",
    "PRECISIONS",
    "PRESETS",
    "TRAINING_STRATEGIES",
    "Cluster",
    "Dtype",
    "FinetuningMethod",
    "Footprint",
    "Place",
    "Precision",
    "Quantization",
    "RankFootprint",
    "Shape",
    "ShapeError",
    "StrategyChoice",
    "Training",
    "TrainingStrategy",
    "cache_bytes",
    "calibrating",
    "choose_strategy",
    "converting",
    "explain_misfit",
    "finetuning",
    "in_gib",
    "inference",
    "max_kept_prefix_tokens",
    "quantizing",
    "rank_footprint",
    "read_config",
    "scoring",
    "smaller_models",
    "smaller_trainings",
]
