"""The quality report equals a direct computation, and gives the reason for missing metrics."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from peft import LoraConfig, get_peft_model
from torch import Tensor

from baichuan_core import CheckpointError, DatasetError, Progress, QuantizationOptions, TokenizerError, quantize
from baichuan_core.checkpoint import load_model, load_tokenizer
from baichuan_core.likelihood import load_held_out_text
from baichuan_core.quantization import Candidate, QualityReport, quality_report
from examples.tiny_checkpoint import make_tiny_checkpoint

pytestmark = pytest.mark.slow  # every test evaluates two models

MakeCheckpoint = Callable[..., Path]
WINDOW = 512
TOKENS = 4096


@pytest.fixture(scope="module", params=["baichuan2-7b", "baichuan1-13b"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a tiny checkpoint with a tokenizer."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("quality") / "base", family=request.param)


def quantized(base: Path, output: Path, method: Any) -> Candidate:
    report = quantize(base, output, QuantizationOptions(method, compute_dtype="float32"))
    return Candidate(method, output, report.relative_errors)


@torch.no_grad()
def logits(checkpoint: Path | str, rows: Tensor) -> Tensor:
    """Compute log-probabilities [rows, seq - 1, vocab] in float64 for the windows of the report."""
    model = load_model(checkpoint, device="cpu")
    found: Tensor = model(rows).logits
    return found[:, :-1].double()


def test_metrics_equal_a_direct_computation(base: Path, tmp_path: Path) -> None:
    candidates = [quantized(base, tmp_path / method, method) for method in ("int8", "nf4")]
    told: list[Progress] = []
    report = quality_report(base, candidates, tmp_path / "report", device="cpu", on_progress=told.append)
    ids = load_tokenizer(base).encode_text(load_held_out_text())[:TOKENS]
    rows = torch.tensor(ids).reshape(-1, WINDOW)
    exact = logits(base, rows)
    assert report.text == "built-in"
    assert report.tokens == len(rows) * (WINDOW - 1)
    assert report.likelihoods_missing is None
    reference, *others = report.models
    targets = rows[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(exact.flatten(0, 1), targets)
    assert reference.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert reference.weight_bytes == (base / "model.safetensors").stat().st_size
    for candidate, found in zip(candidates, others, strict=True):
        changed = logits(candidate.checkpoint, rows)
        divergence = (exact.softmax(-1) * (exact.log_softmax(-1) - changed.log_softmax(-1))).sum(-1).mean()
        loss = torch.nn.functional.cross_entropy(changed.flatten(0, 1), targets)
        assert found.name == candidate.name
        assert found.weight_bytes < reference.weight_bytes
        loaded = load_model(candidate.checkpoint, device="cpu").get_memory_footprint()
        assert found.weight_bytes == pytest.approx(loaded, rel=0.05)  # which leaves out the scales of 4-bit blocks
        assert found.kl_divergence == pytest.approx(float(divergence), rel=2e-2, abs=1e-7)
        assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
        assert found.top_1_agreement == pytest.approx(
            float((exact.argmax(-1) == changed.argmax(-1)).double().mean()), abs=2e-3
        )
        assert found.relative_errors == candidate.relative_errors
        assert found.mean_relative_error == pytest.approx(sum(found.relative_errors.values()) / 10)
    assert (others[0].kl_divergence or 1) < (others[1].kl_divergence or 0)
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert list(dict.fromkeys(progress.stage for progress in told)) == [
        "measuring the unquantized model",
        "measuring int8",
        "measuring nf4",
        "writing",
    ]


def test_files(base: Path, tmp_path: Path) -> None:
    report = quality_report(base, [quantized(base, tmp_path / "int8", "int8")], tmp_path / "report", device="cpu")
    assert json.loads((tmp_path / "report" / "quality.json").read_text(encoding="utf-8")) == asdict(report)
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"quality.json", "quality.png"}
    picture = imread(tmp_path / "report" / "quality.png")
    assert picture.shape == (800, 1300, 4)
    # Each of the three parts of the plot has content.
    for part in (picture[:500, :770], picture[:500, 800:], picture[520:]):
        assert part[..., :3].min() < 0.3 < part[..., :3].max()


def test_a_checkpoint_does_not_differ_from_itself(base: Path, tmp_path: Path) -> None:
    report = quality_report(base, [Candidate("copy", base)], tmp_path, device="cpu")
    copy = report.models[1]
    assert copy.kl_divergence == 0.0
    assert copy.top_1_agreement == 1.0
    assert copy.perplexity == report.models[0].perplexity
    assert copy.mean_relative_error is None


@torch.no_grad()
def test_an_adapter_that_was_merged_belongs_to_the_reference(base: Path, tmp_path: Path) -> None:
    adapted: Any = get_peft_model(load_model(base, device="cpu"), LoraConfig(target_modules=["W_pack"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "adapter")
    merged = shutil.copytree(base, tmp_path / "merged")
    adapted.merge_and_unload().save_pretrained(merged)
    candidates = [Candidate("merged", merged)]
    report = quality_report(base, candidates, tmp_path / "a", adapter=tmp_path / "adapter", device="cpu")
    assert report.models[1].kl_divergence == pytest.approx(0, abs=1e-6)
    without = quality_report(base, candidates, tmp_path / "b", device="cpu")
    assert (without.models[1].kl_divergence or 0) > 1e-5


def test_a_given_text_is_used(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("A text of my own. " * 20, encoding="utf-8")
    report = quality_report(base, [Candidate("copy", base)], tmp_path / "report", text=text, device="cpu")
    assert report.text == "mine.txt"
    assert report.tokens == len(load_tokenizer(base).encode_text(text.read_text())) - 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"too short", "use natural-language text with at least 64 tokens"),
        (b"~" * 300, "only one distinct token"),
        (b"\xff\xfe\xff", "UTF-8"),
    ],
)
def test_an_unusable_text_is_rejected(base: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        quality_report(base, [Candidate("copy", base)], tmp_path / "report", text=tmp_path / "mine.txt")


def assert_only_likelihoods_are_missing(report: QualityReport, reason: str) -> None:
    assert report.likelihoods_missing is not None
    assert reason in report.likelihoods_missing
    assert [model.perplexity for model in report.models] == [None, None]
    assert report.models[1].mean_relative_error
    assert report.models[1].weight_bytes < report.models[0].weight_bytes
    assert report.tokens == 0


def test_without_a_tokenizer(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint()
    (base / "tokenizer.model").unlink()
    candidate = quantized(base, tmp_path / "nf4", "nf4")
    report = quality_report(base, [candidate], tmp_path / "report")
    assert_only_likelihoods_are_missing(report, "tokenizer.model is missing")
    assert (tmp_path / "report" / "quality.png").stat().st_size > 1000
    (tmp_path / "mine.txt").write_text("words " * 100)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model is missing"):
        quality_report(base, [candidate], tmp_path / "report", text=tmp_path / "mine.txt")


def test_a_machine_too_small_for_the_unquantized_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000000 kB\nMemAvailable:     131072 kB\n")
    monkeypatch.setattr("baichuan_core.host_memory.MEMINFO_FILE", meminfo)
    report = quality_report(base, [quantized(base, tmp_path / "nf4", "nf4")], tmp_path / "report", device="cpu")
    assert_only_likelihoods_are_missing(report, "needs 0.19 GiB, but only 0.12 GiB are free")


@torch.no_grad()
def test_a_model_that_computes_nan(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = make_checkpoint()
    model = load_model(base, device="cpu")
    model.model.norm.weight[0] = torch.nan
    model.save_pretrained(base)
    report = quality_report(base, [quantized(base, tmp_path / "int8", "int8")], tmp_path / "report", device="cpu")
    assert_only_likelihoods_are_missing(report, "produces NaN")


def test_a_missing_checkpoint_is_rejected(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        quality_report(base, [Candidate("nf4", tmp_path)], tmp_path / "report")
