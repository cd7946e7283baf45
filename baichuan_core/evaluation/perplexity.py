"""Measures the perplexity of one or two models on a text."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from baichuan_core.checkpoint import ModelCache, load_tokenizer, make_directory, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.errors import UnsupportedError
from baichuan_core.likelihood import (
    PredictionComparison,
    Window,
    compare_windows,
    encode_plain_text,
    perplexity,
    run_reference,
    split_into_windows,
)
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress, scale_progress
from baichuan_core.text_file import read_text_file

from .loading import load_model_for_evaluation
from .options import EvaluatedModel, PerplexityOptions
from .result_files import REPORT_FILE, TABLE_FILE, write_text_atomically
from .statistics import compute_mean_confidence_interval

DEFAULT_WINDOW_TOKENS = 2048
INTERVAL_METHOD = (
    "95% interval of the perplexity ratio, from the paired log-likelihoods of each window: ratio estimator with "
    "Student's quantile; none for fewer than four windows."
)


@dataclass(frozen=True, slots=True)
class ModelPerplexity:
    """Perplexity of a model: exp of the mean negative log-likelihood per token."""

    name: str
    perplexity: float


@dataclass(frozen=True, slots=True)
class PerplexityComparison:
    """Comparison of the evaluated model with another model on the same tokens.

    Attributes:
        difference: The model's perplexity minus the other's.
        ratio: The model's perplexity divided by the other's.
        interval: 95% confidence interval of `ratio`; None if there are too few windows.
        kl_divergence: Mean of KL(other || model) in nats per token.
        top_1_agreement: Fraction of tokens for which both models have the same most likely token.
        method: Description of how the interval is computed.
    """

    difference: float
    ratio: float
    interval: tuple[float, float] | None
    kl_divergence: float
    top_1_agreement: float
    method: str = INTERVAL_METHOD


@dataclass(frozen=True, slots=True)
class PerplexityReport:
    """Result of a perplexity evaluation.

    Attributes:
        window: Tokens per window.
        windows: Number of windows.
        tokens: Number of scored tokens.
        model: Perplexity of the evaluated model.
        compared_with: Perplexity of the other model, if any.
        comparison: Comparison of the two models, if there are two.
    """

    window: int
    windows: int
    tokens: int
    model: ModelPerplexity
    compared_with: ModelPerplexity | None
    comparison: PerplexityComparison | None


def evaluate_perplexity(
    model: EvaluatedModel | Path | str,
    text: Path | str,
    output: Path | str,
    options: PerplexityOptions | None = None,
    *,
    compare_with: EvaluatedModel | Path | str | None = None,
    models: ModelCache | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> PerplexityReport:
    """Measure a model's perplexity on a text, and optionally compare it with another model's.

    Only one model is in memory at a time. Two files are written to `output`: `evaluation.json` (the returned report)
    and `evaluation.md` (the same report as a table).

    Args:
        model: A checkpoint directory (quantized or not), or an `EvaluatedModel` with an adapter.
        text: A UTF-8 file.
        output: Directory for the results.
        options: Window length, dtype, device and batch size.
        compare_with: A second model to compare with, for example the one that `model` was quantized from.
        models: Cache that keeps the last loaded model for later operations; by default, the model is released.
        on_progress: Called during the stages `loading`, `scoring` and `writing`.

    Raises:
        DatasetError: The text cannot be read or is too short.
        TokenizerError: A checkpoint has no tokenizer.
        CheckpointError: A checkpoint or adapter cannot be used, a model produces NaN, or `output` cannot be written.
        InsufficientMemoryError: The text is too long for a comparison of two models.
        UnsupportedError: The two models tokenize the text differently.
    """
    options, output = options or PerplexityOptions(), Path(output)
    make_directory(output)
    on_progress(Progress(0.0, "loading"))
    content = read_text_file(Path(text))
    mine = EvaluatedModel.from_path(model)
    windows = _read_windows(mine, content, options)
    with ModelCache.use_or_create(models) as cache:
        if compare_with is None:
            report = _evaluate_one_model(mine, windows, options, cache, on_progress)
        else:
            theirs = EvaluatedModel.from_path(compare_with)
            _require_same_tokens(mine, theirs, content)
            report = _evaluate_two_models(mine, theirs, windows, options, cache, on_progress)
    on_progress(Progress(1.0, "writing"))
    write_text_atomically(output / TABLE_FILE, _format_table(report))
    write_text_atomically(output / REPORT_FILE, json.dumps(asdict(report), ensure_ascii=False, indent=2) + "\n")
    return report


def _read_windows(model: EvaluatedModel, content: str, options: PerplexityOptions) -> list[Window]:
    own = read_config(Path(model.checkpoint)).model_max_length or DEFAULT_CONTEXT_LENGTH
    length = options.window or min(DEFAULT_WINDOW_TOKENS, own)
    return split_into_windows(
        encode_plain_text(load_tokenizer(model.checkpoint), content), length=length, stride=length
    )


def _require_same_tokens(mine: EvaluatedModel, theirs: EvaluatedModel, content: str) -> None:
    ids, others = (encode_plain_text(load_tokenizer(model.checkpoint), content) for model in (mine, theirs))
    if ids != others:
        raise UnsupportedError(
            f"the tokenizers of {mine.display_name} and {theirs.display_name} differ on this text: "
            "compare models that use the same tokenizer"
        )


def _evaluate_one_model(
    model: EvaluatedModel,
    windows: Sequence[Window],
    options: PerplexityOptions,
    models: ModelCache,
    on_progress: ProgressCallback,
) -> PerplexityReport:
    loaded = load_model_for_evaluation(model, options, models)
    found = perplexity(loaded, windows, batch_tokens=options.batch_tokens, on_progress=on_progress)
    longest = len(windows[0].token_ids)
    return PerplexityReport(
        longest, len(windows), found.tokens, ModelPerplexity(model.display_name, found.value), None, None
    )


def _evaluate_two_models(
    mine: EvaluatedModel,
    theirs: EvaluatedModel,
    windows: Sequence[Window],
    options: PerplexityOptions,
    models: ModelCache,
    on_progress: ProgressCallback,
) -> PerplexityReport:
    reference = run_reference(
        load_model_for_evaluation(theirs, options, models),
        windows,
        batch_tokens=options.batch_tokens,
        on_progress=scale_progress(on_progress, 0.0, 0.5),
    )
    parts = compare_windows(
        reference,
        load_model_for_evaluation(mine, options, models),
        batch_tokens=options.batch_tokens,
        on_progress=scale_progress(on_progress, 0.5, 1.0),
    )
    return _build_comparison_report(mine, theirs, len(windows[0].token_ids), parts)


def _build_comparison_report(
    mine: EvaluatedModel, theirs: EvaluatedModel, longest: int, parts: Sequence[PredictionComparison]
) -> PerplexityReport:
    sizes = [part.tokens for part in parts]
    tokens = sum(sizes)
    own = [part.tokens * math.log(part.perplexity) for part in parts]
    others = [part.tokens * math.log(part.reference_perplexity) for part in parts]
    interval = compute_mean_confidence_interval([a - b for a, b in zip(own, others, strict=True)], sizes)
    value, reference_value = (math.exp(math.fsum(sums) / tokens) for sums in (own, others))
    comparison = PerplexityComparison(
        difference=value - reference_value,
        ratio=value / reference_value,
        interval=interval and (math.exp(interval[0]), math.exp(interval[1])),
        kl_divergence=math.fsum(part.kl_divergence * part.tokens for part in parts) / tokens,
        top_1_agreement=math.fsum(part.top_1_agreement * part.tokens for part in parts) / tokens,
    )
    models = ModelPerplexity(mine.display_name, value), ModelPerplexity(theirs.display_name, reference_value)
    return PerplexityReport(longest, len(parts), tokens, *models, comparison)


def _format_table(report: PerplexityReport) -> str:
    rows = [(model.name, f"{model.perplexity:.4f}") for model in (report.model, report.compared_with) if model]
    if compared := report.comparison:
        low, high = compared.interval or (math.nan, math.nan)
        rows += [
            ("difference", f"{compared.difference:+.4f}"),
            ("ratio", f"{compared.ratio:.5f}"),
            ("95% interval of the ratio", f"{low:.5f} to {high:.5f}" if compared.interval else "too few windows"),
            ("KL divergence", f"{compared.kl_divergence:.3g} nats per token"),
            ("same most likely token", f"{100 * compared.top_1_agreement:.2f}%"),
        ]
    table = "".join(f"| {name} | {value} |\n" for name, value in (("", "perplexity"), ("---", "---:"), *rows))
    note = f"\n{compared.method}\n" if compared else ""
    return f"# Perplexity, {report.tokens} tokens, windows of {report.window}\n\n{table}{note}"
