"""Model evaluation: C-Eval, MMLU and CMMLU with their published prompts, and perplexity on a text."""

from .benchmark import evaluate_benchmark
from .benchmark_report import BenchmarkComparison, BenchmarkReport, ModelAccuracy
from .benchmarks import BenchmarkName, Split
from .options import BenchmarkOptions, EvaluatedModel, PerplexityOptions
from .perplexity import ModelPerplexity, PerplexityComparison, PerplexityReport, evaluate_perplexity
from .statistics import Accuracy, AccuracyDifference

__all__ = [
    "Accuracy",
    "AccuracyDifference",
    "BenchmarkComparison",
    "BenchmarkName",
    "BenchmarkOptions",
    "BenchmarkReport",
    "EvaluatedModel",
    "ModelAccuracy",
    "ModelPerplexity",
    "PerplexityComparison",
    "PerplexityOptions",
    "PerplexityReport",
    "Split",
    "evaluate_benchmark",
    "evaluate_perplexity",
]
