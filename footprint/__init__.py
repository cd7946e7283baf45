"""Estimates of the memory that operations on Baichuan models need, by arithmetic alone: no torch, no loaded model.

They are used by the API when a job is submitted, by the scheduler when a job is placed, by a runner before it loads a
model, and by the CLI offline.
"""

from .breakdown import GIB, Footprint, MemoryPlace, format_gib
from .finetuning import FinetuningMethod, TrainingSettings, estimate_finetuning
from .inference import cache_bytes, compute_max_cached_prefix_tokens, estimate_inference, estimate_scoring
from .precision import Dtype, Precision, Quantization
from .remedies import PRECISIONS, find_smaller_finetuning_options, find_smaller_models
from .rewriting import estimate_calibration, estimate_conversion, estimate_quantization
from .shape import PRESETS, ModelShape, ShapeError, read_config
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
    "ModelShape",
    "Precision",
    "Quantization",
    "RankFootprint",
    "ShapeError",
    "StrategyChoice",
    "TrainingSettings",
    "TrainingStrategy",
    "cache_bytes",
    "choose_strategy",
    "compute_max_cached_prefix_tokens",
    "estimate_calibration",
    "estimate_conversion",
    "estimate_finetuning",
    "estimate_inference",
    "estimate_quantization",
    "estimate_rank_footprint",
    "estimate_scoring",
    "explain_insufficient_memory",
    "find_smaller_finetuning_options",
    "find_smaller_models",
    "format_gib",
    "read_config",
]
