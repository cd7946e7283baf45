"""Estimates of the memory that operations on Baichuan models need, by arithmetic alone: no torch, no loaded model.

They are used by the API when a job is submitted, by the scheduler when a job is placed, by a runner before it loads a
model, and by the CLI offline.
"""

from .breakdown import GIB, Footprint, MemoryPlace, in_gib
from .finetuning import FinetuningMethod, Training, estimate_finetuning
from .inference import cache_bytes, estimate_inference, estimate_scoring, max_kept_prefix_tokens
from .precision import Dtype, Precision, Quantization
from .remedies import PRECISIONS, find_smaller_models, find_smaller_trainings
from .rewriting import estimate_calibration, estimate_conversion, estimate_quantization
from .shape import PRESETS, Shape, ShapeError, read_config
from .sharding import TRAINING_STRATEGIES, RankFootprint, TrainingStrategy, estimate_rank_footprint
from .strategies import Cluster, StrategyChoice, choose_strategy, explain_insufficient_memory

__all__ = [
    "GIB",
    "PRECISIONS",
    "PRESETS",
    "TRAINING_STRATEGIES",
    "Cluster",
    "Dtype",
    "FinetuningMethod",
    "Footprint",
    "MemoryPlace",
    "Precision",
    "Quantization",
    "RankFootprint",
    "Shape",
    "ShapeError",
    "StrategyChoice",
    "Training",
    "TrainingStrategy",
    "cache_bytes",
    "choose_strategy",
    "estimate_calibration",
    "estimate_conversion",
    "estimate_finetuning",
    "estimate_inference",
    "estimate_quantization",
    "estimate_rank_footprint",
    "estimate_scoring",
    "explain_insufficient_memory",
    "find_smaller_models",
    "find_smaller_trainings",
    "in_gib",
    "max_kept_prefix_tokens",
    "read_config",
]
