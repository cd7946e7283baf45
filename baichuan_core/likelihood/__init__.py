"""Likelihoods of texts under a model, and comparisons of the predictions of two models."""

from .comparison import Comparison, ReferenceRun, compare_windows, compare_with_reference, run_reference
from .passes import BATCH_TOKENS
from .scoring import (
    ContinuationScore,
    Perplexity,
    continuation_log_likelihoods,
    next_token_log_likelihoods,
    perplexity,
    token_log_likelihoods,
)
from .texts import calibration_text, held_out_text
from .windows import Window, encode_plain, text_windows, token_rows

__all__ = [
    "BATCH_TOKENS",
    "Comparison",
    "ContinuationScore",
    "Perplexity",
    "ReferenceRun",
    "Window",
    "calibration_text",
    "compare_windows",
    "compare_with_reference",
    "continuation_log_likelihoods",
    "encode_plain",
    "held_out_text",
    "next_token_log_likelihoods",
    "perplexity",
    "run_reference",
    "text_windows",
    "token_log_likelihoods",
    "token_rows",
]
