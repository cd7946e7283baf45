"""Perplexity of one model and of two compared models, against a direct computation."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baichuan_core import DatasetError, QuantizationOptions, UnsupportedError, load_model, load_tokenizer, quantize
from baichuan_core.evaluation import PerplexityOptions, evaluate_perplexity
from examples.tiny_checkpoint import make_tiny_checkpoint

TEXT = "The queue keeps every job. 队列保存每一个任务。\n" * 12
WINDOW = 64


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@torch.inference_mode()
def distributions(checkpoint: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute float64 [tokens, vocab] and the tokens, in independent windows of 64 tokens."""
    model = load_model(checkpoint)
    ids = load_tokenizer(checkpoint).encode_text(TEXT)
    runs = [torch.tensor(ids[start : start + WINDOW]) for start in range(0, len(ids), WINDOW)]
    rows = [model(run[None]).logits[0, :-1].double().log_softmax(-1) for run in runs if len(run) > 1]
    return torch.cat(rows), torch.cat([run[1:] for run in runs])


def perplexity_from_log_likelihood(rows: torch.Tensor, tokens: torch.Tensor) -> float:
    return math.exp(-float(rows.gather(-1, tokens[:, None]).mean()))


def test_perplexity_equals_that_of_separate_windows(text: Path, tmp_path: Path) -> None:
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    report = evaluate_perplexity(tiny, text, tmp_path / "out", PerplexityOptions(window=WINDOW))
    rows, tokens = distributions(tiny)
    assert report.tokens == len(tokens)
    assert report.model.perplexity == pytest.approx(perplexity_from_log_likelihood(rows, tokens), rel=1e-4)
    assert (report.compared_with, report.comparison) == (None, None)
    assert "| tiny |" in (tmp_path / "out" / "evaluation.md").read_text()


def test_a_quantized_model_is_compared_with_the_original(text: Path, tmp_path: Path) -> None:
    tiny, small = make_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "small"
    quantize(tiny, small, QuantizationOptions("nf4", compute_dtype="float32"))
    fractions: list[float] = []
    report = evaluate_perplexity(
        small,
        text,
        tmp_path / "out",
        PerplexityOptions(window=WINDOW),
        compare_with=tiny,
        on_progress=lambda progress: fractions.append(progress.fraction),
    )
    (mine, tokens), (theirs, _) = distributions(small), distributions(tiny)
    comparison = report.comparison
    assert comparison is not None
    assert comparison.ratio == pytest.approx(
        perplexity_from_log_likelihood(mine, tokens) / perplexity_from_log_likelihood(theirs, tokens), rel=1e-4
    )
    assert comparison.kl_divergence == pytest.approx(float((theirs.exp() * (theirs - mine)).sum(-1).mean()), rel=1e-2)
    same = float((mine.argmax(-1) == theirs.argmax(-1)).double().mean())
    assert comparison.top_1_agreement == pytest.approx(same, abs=2 / len(tokens))
    assert comparison.interval is not None
    assert comparison.interval[0] < comparison.ratio < comparison.interval[1]
    assert fractions == sorted(fractions)
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert stored["comparison"]["kl_divergence"] == comparison.kl_divergence


def test_invalid_inputs_are_rejected(make_checkpoint: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    with pytest.raises(UnsupportedError, match="window is 1"):
        PerplexityOptions(window=1)
    with pytest.raises(UnsupportedError, match="tokenizers of tiny and other differ"):
        evaluate_perplexity(tiny, text, tmp_path / "out", compare_with=make_checkpoint("other"))
    text.write_text("", encoding="utf-8")
    with pytest.raises(DatasetError, match="too few"):
        evaluate_perplexity(tiny, text, tmp_path / "out")
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="UTF-8"):
        evaluate_perplexity(tiny, text, tmp_path / "out")
