"""Comparison of two models on one text."""

import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baichuan_core import (
    BaichuanForCausalLM,
    CheckpointError,
    InsufficientMemoryError,
    MemoryOccupiedError,
    UnsupportedError,
)
from baichuan_core.checkpoint import load_model
from baichuan_core.likelihood import (
    compare_windows,
    compare_with_reference,
    perplexity,
    run_reference,
    split_into_windows,
)

MakeCheckpoint = Callable[..., Path]


def test_a_model_does_not_differ_from_itself(model: BaichuanForCausalLM, ids: list[int]) -> None:
    windows = split_into_windows(ids, length=40, stride=25)
    found = compare_with_reference(run_reference(model, windows), model)
    assert found.kl_divergence == 0.0
    assert found.top_1_agreement == 1.0
    assert found.perplexity == found.reference_perplexity
    assert found.perplexity == pytest.approx(perplexity(model, windows).value, rel=1e-6)
    assert found.tokens == len(ids) - 1


@torch.no_grad()
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_metrics_equal_those_of_the_whole_distributions(
    make_checkpoint: MakeCheckpoint, ids: list[int], batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baichuan_core.likelihood.head.MAX_SLICE_ELEMENTS", 768 * 11)
    reference = load_model(make_checkpoint(initializer_range=0.2), device="cpu")
    changed = load_model(make_checkpoint("other", initializer_range=0.2), device="cpu")
    noise = torch.Generator().manual_seed(3)
    for parameter in changed.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.05)
    windows = split_into_windows(ids, length=len(ids), stride=len(ids))
    run = run_reference(reference, windows, batch_tokens=batch_tokens)
    exact_p, exact_q = (one(torch.tensor([ids])).logits[0, :-1].double() for one in (reference, changed))
    for parameter in reference.model.parameters():  # only the head is still needed
        parameter.zero_()
    found = compare_with_reference(run, changed, batch_tokens=batch_tokens)
    divergence = (exact_p.softmax(-1) * (exact_p.log_softmax(-1) - exact_q.log_softmax(-1))).sum(-1).mean()
    targets = torch.tensor(ids[1:])
    assert found.kl_divergence == pytest.approx(float(divergence), rel=1e-5)
    assert 0.05 < found.kl_divergence < 10
    assert found.top_1_agreement == pytest.approx(float((exact_p.argmax(-1) == exact_q.argmax(-1)).double().mean()))
    assert 0 < found.top_1_agreement < 1
    assert math.log(found.reference_perplexity) == pytest.approx(
        float(torch.nn.functional.cross_entropy(exact_p, targets)), rel=1e-5
    )
    assert math.log(found.perplexity) == pytest.approx(
        float(torch.nn.functional.cross_entropy(exact_q, targets)), rel=1e-5
    )


def test_a_reference_run_releases_the_model(model: BaichuanForCausalLM, ids: list[int]) -> None:
    run = run_reference(model, split_into_windows(ids, length=40, stride=40))
    body, model.model = weakref.ref(model.model), torch.nn.Identity()
    gc.collect()
    assert body() is None
    assert sum(len(states) for states in run.states) == 146


@torch.no_grad()
def test_incomparable_models_are_rejected(make_checkpoint: MakeCheckpoint, ids: list[int]) -> None:
    windows = split_into_windows(ids, length=40, stride=40)
    model = load_model(make_checkpoint(), device="cpu")
    run = run_reference(model, windows)
    with pytest.raises(UnsupportedError, match="768 and 1024 tokens"):
        compare_with_reference(run, load_model(make_checkpoint("wide", vocab_size=1024), device="cpu"))
    broken = load_model(make_checkpoint("broken"), device="cpu")
    broken.model.norm.weight[0] = torch.nan
    with pytest.raises(CheckpointError, match="produces NaN"):
        compare_with_reference(run, broken)


def test_windows_are_compared_in_order_but_run_in_batches(make_checkpoint: MakeCheckpoint, ids: list[int]) -> None:
    reference, model = (
        load_model(make_checkpoint(str(seed), seed=seed, initializer_range=0.2), device="cpu") for seed in (0, 1)
    )
    windows = [*split_into_windows(ids[:30], length=30, stride=30), *split_into_windows(ids, length=50, stride=50)]
    rows: list[int] = []
    run = run_reference(reference, windows)
    hook = model.model.embed_tokens.register_forward_hook(lambda _m, _i, output: rows.append(len(output)))
    found = compare_windows(run, model, batch_tokens=10_000)
    hook.remove()
    assert rows == [4]
    for window, comparison in zip(windows, found, strict=True):
        alone = compare_with_reference(run_reference(reference, [window]), model)
        assert comparison.kl_divergence == pytest.approx(alone.kl_divergence, rel=1e-4)
        assert comparison.perplexity == pytest.approx(alone.perplexity, rel=1e-4)
        assert comparison.tokens == alone.tokens == len(window.token_ids) - 1


def test_a_text_whose_states_do_not_fit_is_rejected(
    make_checkpoint: MakeCheckpoint, ids: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 37 kB\nMemAvailable: 37 kB\n")
    monkeypatch.setattr("baichuan_core.host_memory.MEMINFO_FILE", tmp_path / "meminfo")
    model = load_model(make_checkpoint(), device="cpu")
    run_reference(model, split_into_windows(ids[:148], length=148, stride=148))  # 147 states of 64 numbers
    too_long = split_into_windows(ids, length=150, stride=150)
    with pytest.raises(InsufficientMemoryError, match=r"states for 149 tokens need .* use a shorter text") as told:
        run_reference(model, too_long)
    assert not told.value.may_pass
    (tmp_path / "meminfo").write_text("MemTotal: 38 kB\nMemAvailable: 37 kB\n")
    with pytest.raises(MemoryOccupiedError):
        run_reference(model, too_long)


@torch.no_grad()
def test_a_model_that_finds_the_text_impossible_is_rejected(make_checkpoint: MakeCheckpoint, ids: list[int]) -> None:
    windows = split_into_windows(ids, length=40, stride=40)
    model = load_model(make_checkpoint(norm_head=False), device="cpu")
    run = run_reference(model, windows)
    wrong = load_model(make_checkpoint("wrong", norm_head=False), device="cpu")
    wrong.lm_head.weight.mul_(1e6)
    with pytest.raises(CheckpointError, match="assigns the text almost no probability"):
        perplexity(wrong, windows)
    with pytest.raises(CheckpointError, match="assigns the text almost no probability"):
        compare_with_reference(run, wrong)
