"""What quantizing cost: memory, errors of the weights, and how far the predictions moved."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from baichuan_core.checkpoint import TensorReader, load_model, make_directory
from baichuan_core.errors import BaichuanError
from baichuan_core.free_memory import release_memory
from baichuan_core.likelihood import Comparison, compare_with_reference, run_reference
from baichuan_core.out_of_memory import is_out_of_memory
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress, part_of

from .quality_memory import too_little_memory
from .quality_text import QualityText, read_quality_text

JSON_FILE = "quality.json"
PICTURE_FILE = "quality.png"
REFERENCE = "unquantized"
BATCH_TOKENS = 1024  # keeps a GPU busy, and the activations small beside the model
COMPARED = ("perplexity", "kl_divergence", "top_1_agreement")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized checkpoint to measure.

    Attributes:
        name: What the report calls it, e.g. "nf4".
        checkpoint: Its directory.
        relative_errors: Of its weights, as in `QuantizationReport`; shown, not computed again.
    """

    name: str
    checkpoint: Path | str
    relative_errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelQuality:
    """One model of a report.

    Attributes:
        name: "unquantized", or the candidate's name.
        weight_bytes: Bytes of its weights.
        perplexity: exp of the mean negative log-likelihood a token; None if likelihoods are missing, as below.
        kl_divergence: Mean KL(unquantized || this) in nats a token; None for the unquantized model.
        top_1_agreement: Share of positions where the unquantized model finds the same token most likely.
        mean_relative_error: Mean of `relative_errors`, None where there are none.
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
    """Quantized models beside the one they were made from.

    Attributes:
        text: Where the text came from, "built-in" or the name of the file.
        tokens: How many tokens of it were scored.
        models: The unquantized model, then the candidates.
        likelihoods_missing: Why perplexity, KL divergence and agreement are missing, None if they are there.
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
    on_progress: ProgressCallback = ignore_progress,
) -> QualityReport:
    """Measure quantized checkpoints against the one they were made from; writes quality.json and quality.png.

    One model is in memory at a time: of the unquantized one, the last hidden states and the head are kept.
    Where likelihoods cannot be had (no tokenizer, or a model that does not fit or compute here), the report says why
    and holds the rest.

    Args:
        reference: The unquantized checkpoint.
        candidates: What was made from it.
        output: Directory for the two files; made if need be.
        text: UTF-8 file to measure on, its first 4096 tokens; the built-in text, Chinese and English, if not given.
        adapter: A LoRA adapter that was merged before quantizing, so that it belongs to the reference.
        device: Where to compute, e.g. "cpu"; the first GPU, or else the CPU, if not given.
        on_progress: Told about stages ``measuring the unquantized model``, ``measuring NAME`` and ``writing``.

    Raises:
        DatasetError: `text` is no UTF-8 text or too short.
        TokenizerError: `text` is given and the checkpoint has no tokenizer.
        CheckpointError: A directory holds no checkpoint, or `output` cannot be written to.
    """
    reference, output = Path(reference), Path(output)
    quality_text = read_quality_text(reference, None if text is None else Path(text))
    names = {REFERENCE: reference} | {one.name: Path(one.checkpoint) for one in candidates}
    sizes = {name: _weight_bytes(directory) for name, directory in names.items()}
    make_directory(output)
    comparisons, missing = _compare_all(reference, candidates, quality_text, adapter, device, on_progress)
    on_progress(Progress(1.0, "writing"))
    report = QualityReport(
        text=quality_text.source,
        tokens=next((found.tokens for found in comparisons.values()), 0),
        models=_models(candidates, sizes, comparisons),
        likelihoods_missing=missing,
    )
    (output / JSON_FILE).write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    from .quality_picture import draw_quality  # noqa: PLC0415 - loads matplotlib, which nothing else needs

    draw_quality(asdict(report), output / PICTURE_FILE)
    return report


def _models(
    candidates: Sequence[Candidate], sizes: Mapping[str, int], comparisons: Mapping[str, Comparison]
) -> list[ModelQuality]:
    perplexity = next((found.reference_perplexity for found in comparisons.values()), None)
    models = [ModelQuality(REFERENCE, sizes[REFERENCE], perplexity)]
    for one in candidates:
        errors = dict(one.relative_errors)
        mean = sum(errors.values()) / len(errors) if errors else None
        found = comparisons.get(one.name)
        figures = {} if found is None else {name: getattr(found, name) for name in COMPARED}
        quality = ModelQuality(one.name, sizes[one.name], mean_relative_error=mean, relative_errors=errors, **figures)
        models.append(quality)
    return models


def _compare_all(
    reference: Path,
    candidates: Sequence[Candidate],
    text: QualityText,
    adapter: Path | str | None,
    device: str | None,
    on_progress: ProgressCallback,
) -> tuple[dict[str, Comparison], str | None]:
    """Comparisons by name, or none of them and the reason."""
    release_memory()
    missing = text.missing or too_little_memory(reference, device, batch_tokens=BATCH_TOKENS)
    if missing is not None:
        return {}, missing
    steps = 1 + len(candidates)
    try:
        told = _stage(on_progress, f"measuring the {REFERENCE} model", 0, steps)
        model = load_model(reference, device=device, adapter=adapter).prepack()
        run = run_reference(model, text.windows, batch_tokens=BATCH_TOKENS, on_progress=told)
        comparisons = {}
        for number, one in enumerate(candidates, start=1):
            del model
            release_memory()
            told = _stage(on_progress, f"measuring {one.name}", number, steps)
            model = load_model(one.checkpoint, device=device).prepack()
            comparisons[one.name] = compare_with_reference(run, model, batch_tokens=BATCH_TOKENS, on_progress=told)
    except (BaichuanError, RuntimeError, MemoryError) as error:
        if not isinstance(error, BaichuanError) and not is_out_of_memory(error):
            raise
        return {}, str(error)
    return comparisons, None


def _stage(on_progress: ProgressCallback, name: str, number: int, steps: int) -> ProgressCallback:
    """Tell that a step begins, and give the callback for its course."""
    part = part_of(on_progress, number / steps, (number + 1) / steps)
    part(Progress(0.0, name))
    return lambda progress: part(Progress(progress.fraction, name))


def _weight_bytes(checkpoint: Path) -> int:
    with TensorReader(checkpoint) as reader:
        return reader.total_bytes
