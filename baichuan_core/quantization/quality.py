"""Compares quantized checkpoints with the original: memory, weight errors and predictions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from baichuan_core.checkpoint import ModelCache, ModelSource, TensorReader, make_directory
from baichuan_core.errors import BaichuanError
from baichuan_core.free_memory import release_memory
from baichuan_core.likelihood import PredictionComparison, compare_with_reference, run_reference
from baichuan_core.out_of_memory import is_out_of_memory
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress, scale_progress

from .quality_memory import explain_memory_shortage
from .quality_text import QualityText, read_quality_text

REPORT_FILE = "quality.json"
PLOT_FILE = "quality.png"
REFERENCE_NAME = "unquantized"
BATCH_TOKENS = 1024  # enough to keep a GPU busy, while activations stay small compared with the model
LIKELIHOOD_METRICS = ("perplexity", "kl_divergence", "top_1_agreement")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized checkpoint to measure.

    Attributes:
        name: Name in the report, e.g. "nf4".
        checkpoint: Directory of the checkpoint.
        relative_errors: Relative errors of the weights, copied from `QuantizationReport` instead of computed again.
    """

    name: str
    checkpoint: Path | str
    relative_errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelQuality:
    """Quality metrics of one model.

    The metrics `perplexity`, `kl_divergence` and `top_1_agreement` are None if the report has no likelihoods.

    Attributes:
        name: "unquantized", or the candidate's name.
        weight_bytes: Size of the weights in bytes.
        perplexity: exp of the mean negative log-likelihood per token.
        kl_divergence: Mean KL(unquantized || this) in nats per token; None for the unquantized model.
        top_1_agreement: Fraction of positions with the same most likely token as the unquantized model; None for the
            unquantized model.
        mean_relative_error: Mean of `relative_errors`; None if there are none.
        relative_errors: |W - Q| / |W| of each quantized weight.
    """

    name: str
    weight_bytes: int
    perplexity: float | None = None
    kl_divergence: float | None = None
    top_1_agreement: float | None = None
    mean_relative_error: float | None = None
    relative_errors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Comparison of quantized models with the original.

    Attributes:
        text: Source of the text: "built-in" or the name of the file.
        tokens: Number of scored tokens.
        models: The unquantized model, then the candidates.
        likelihoods_missing: Why perplexity, KL divergence and agreement could not be computed; None if they were.
    """

    text: str
    tokens: int
    models: list[ModelQuality]
    likelihoods_missing: str | None = None


def quality_report(
    reference: Path | str,
    candidates: Sequence[Candidate],
    output: Path | str,
    *,
    text: Path | str | None = None,
    adapter: Path | str | None = None,
    device: str | None = None,
    models: ModelCache | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> QualityReport:
    """Compare quantized checkpoints with the original, and write quality.json and quality.png.

    Only one model is in memory at a time: of the unquantized model, only the final hidden states and the output head
    are kept. If likelihoods cannot be computed (no tokenizer, or a model that does not fit in memory or fails to run),
    the report contains the reason and all other metrics.

    Args:
        reference: The unquantized checkpoint.
        candidates: Checkpoints quantized from it.
        output: Directory for the two files; created if it does not exist.
        text: UTF-8 file to measure on (its first 4096 tokens); by default the built-in Chinese and English text.
        adapter: A LoRA adapter that was merged before quantizing and therefore belongs to the reference.
        device: Device to run on, e.g. "cpu"; by default the first GPU, or the CPU if there is no GPU.
        models: Cache that keeps the last loaded model for later operations; by default, the model is released.
        on_progress: Called during the stages `measuring the unquantized model`, `measuring NAME` and `writing`.

    Raises:
        DatasetError: `text` is not UTF-8 text or is too short.
        TokenizerError: `text` is given and the checkpoint has no tokenizer.
        CheckpointError: A directory is not a checkpoint, or `output` cannot be written to.
    """
    reference, output = Path(reference), Path(output)
    quality_text = read_quality_text(reference, None if text is None else Path(text))
    names = {REFERENCE_NAME: reference} | {one.name: Path(one.checkpoint) for one in candidates}
    sizes = {name: _count_weight_bytes(directory) for name, directory in names.items()}
    make_directory(output)
    original = ModelSource(reference, None if adapter is None else Path(adapter), device=device)
    with ModelCache.use_or_create(models) as cache:
        comparisons, missing = _compare_candidates(original, candidates, quality_text, cache, on_progress)
    on_progress(Progress(1.0, "writing"))
    report = QualityReport(
        text=quality_text.source,
        tokens=next((found.tokens for found in comparisons.values()), 0),
        models=_build_model_quality(candidates, sizes, comparisons),
        likelihoods_missing=missing,
    )
    (output / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    from .quality_plot import plot_quality  # noqa: PLC0415 - loads matplotlib, which is needed only here

    plot_quality(asdict(report), output / PLOT_FILE)
    return report


def _build_model_quality(
    candidates: Sequence[Candidate], sizes: Mapping[str, int], comparisons: Mapping[str, PredictionComparison]
) -> list[ModelQuality]:
    perplexity = next((found.reference_perplexity for found in comparisons.values()), None)
    models = [ModelQuality(REFERENCE_NAME, sizes[REFERENCE_NAME], perplexity)]
    for candidate in candidates:
        name, errors = candidate.name, dict(candidate.relative_errors)
        mean = sum(errors.values()) / len(errors) if errors else None
        comparison = comparisons.get(name)
        metrics = {} if comparison is None else {metric: getattr(comparison, metric) for metric in LIKELIHOOD_METRICS}
        models.append(ModelQuality(name, sizes[name], mean_relative_error=mean, relative_errors=errors, **metrics))
    return models


def _compare_candidates(
    reference: ModelSource,
    candidates: Sequence[Candidate],
    text: QualityText,
    models: ModelCache,
    on_progress: ProgressCallback,
) -> tuple[dict[str, PredictionComparison], str | None]:
    """Return comparisons by candidate name; if any of them fails, return only the reason."""
    release_memory()
    missing = text.missing
    if missing is None and not models.is_loaded(reference):
        missing = explain_memory_shortage(reference.checkpoint, reference.device, batch_tokens=BATCH_TOKENS)
    if missing is not None:
        return {}, missing
    steps = 1 + len(candidates)
    try:
        report = _start_stage(on_progress, f"measuring the {REFERENCE_NAME} model", 0, steps)
        run = run_reference(models.load(reference), text.windows, batch_tokens=BATCH_TOKENS, on_progress=report)
        comparisons = {}
        for number, one in enumerate(candidates, start=1):
            report = _start_stage(on_progress, f"measuring {one.name}", number, steps)
            model = models.load(ModelSource(Path(one.checkpoint), device=reference.device))
            comparisons[one.name] = compare_with_reference(run, model, batch_tokens=BATCH_TOKENS, on_progress=report)
            del model  # leaves the cache with the only reference, so it can release the model
    except (BaichuanError, RuntimeError, MemoryError) as error:
        if not isinstance(error, BaichuanError) and not is_out_of_memory(error):
            raise
        return {}, str(error)
    return comparisons, None


def _start_stage(on_progress: ProgressCallback, name: str, number: int, steps: int) -> ProgressCallback:
    """Report the start of a stage and return the callback for its progress."""
    report = scale_progress(on_progress, number / steps, (number + 1) / steps)
    report(Progress(0.0, name))
    return lambda progress: report(Progress(progress.fraction, name))


def _count_weight_bytes(checkpoint: Path) -> int:
    with TensorReader(checkpoint) as reader:
        return reader.total_bytes
