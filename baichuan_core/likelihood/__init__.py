"""Likelihoods of texts under a model, and comparisons of the predictions of two models."""

from .comparison import PredictionComparison, ReferenceRun, compare_windows, compare_with_reference, run_reference
from .passes import BATCH_TOKENS
from .scoring import (
    ContinuationScore,
    Perplexity,
    compute_next_token_log_likelihoods,
    compute_token_log_likelihoods,
    perplexity,
    score_continuations,
)
from .texts import load_calibration_text, load_held_out_text
from .windows import Window, encode_plain_text, make_token_rows, split_into_windows

__all__ = [
    "BATCH_TOKENS",
    "ContinuationScore",
    "Perplexity",
    "PredictionComparison",
    "ReferenceRun",
    "Window",
    "compare_windows",
    "compare_with_reference",
    "compute_next_token_log_likelihoods",
    "compute_token_log_likelihoods",
    "encode_plain_text",
    "load_calibration_text",
    "load_held_out_text",
    "make_token_rows",
    "perplexity",
    "run_reference",
    "score_continuations",
    "split_into_windows",
]
