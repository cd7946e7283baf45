"""Log-likelihoods equal those of a plain forward pass, regardless of batches, prefixes and slices."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan_core import BaichuanForCausalLM, CheckpointError, DatasetError, Progress
from baichuan_core.likelihood import (
    ContinuationScore,
    compute_next_token_log_likelihoods,
    compute_token_log_likelihoods,
    perplexity,
    score_continuations,
    split_into_windows,
)

TOLERANCE = 2e-5
CHOICES = [17, 400, 5]


@torch.no_grad()
def log_probabilities(model: BaichuanForCausalLM, ids: list[int]) -> Tensor:
    """Compute log-probabilities [tokens, vocab] with a plain forward pass."""
    logits: Tensor = model(torch.tensor([ids])).logits[0]
    return logits.log_softmax(dim=-1)


@torch.no_grad()
def test_perplexity_equals_exp_of_the_models_own_loss(model: BaichuanForCausalLM, ids: list[int]) -> None:
    row = torch.tensor([ids])
    found = perplexity(model, split_into_windows(ids, length=len(ids), stride=len(ids)))
    assert found.value == pytest.approx(math.exp(model(row, labels=row).loss), rel=1e-5)
    assert found.tokens == len(ids) - 1


def test_windows_see_only_their_own_context(model: BaichuanForCausalLM, ids: list[int]) -> None:
    windows = split_into_windows(ids, length=40, stride=25)
    rows = [log_probabilities(model, list(window.token_ids)) for window in windows]
    total = sum(
        float(row[place - 1, window.token_ids[place]])
        for row, window in zip(rows, windows, strict=True)
        for place in range(window.first_scored, len(window.token_ids))
    )
    found = perplexity(model, windows, batch_tokens=100)
    assert found.tokens == len(ids) - 1
    assert math.log(found.value) == pytest.approx(-total / found.tokens, rel=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_batches_and_padding_change_nothing(model: BaichuanForCausalLM, ids: list[int], batch_tokens: int) -> None:
    sequences = [ids[:30], ids[40:42], ids[:31], ids[60:115], ids[5:9]]
    shares: list[Progress] = []
    rows = compute_token_log_likelihoods(model, sequences, batch_tokens=batch_tokens, on_progress=shares.append)
    for row, sequence in zip(rows, sequences, strict=True):
        expected = log_probabilities(model, sequence)[:-1].gather(-1, torch.tensor(sequence[1:])[:, None])[:, 0]
        torch.testing.assert_close(row, expected, rtol=0, atol=TOLERANCE)
    assert [share.fraction for share in shares] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_slices_of_positions_change_nothing(
    model: BaichuanForCausalLM, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compute_token_log_likelihoods(model, [ids])[0]
    monkeypatch.setattr("baichuan_core.likelihood.head.MAX_SLICE_ELEMENTS", 768 * 7)
    torch.testing.assert_close(compute_token_log_likelihoods(model, [ids])[0], whole, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
@pytest.mark.parametrize("shared", [0, 1, 60])
def test_a_shared_prefix_changes_nothing(
    model: BaichuanForCausalLM, ids: list[int], shared: int, batch_tokens: int
) -> None:
    prompts = [ids[:shared] + ids[start : start + length] for start, length in ((70, 5), (80, 1), (90, 23), (120, 2))]
    found = compute_next_token_log_likelihoods(model, prompts, CHOICES, batch_tokens=batch_tokens)
    expected = torch.stack([log_probabilities(model, prompt)[-1, CHOICES] for prompt in prompts])
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_equal_prompts_and_a_prompt_that_is_a_prefix_of_another(model: BaichuanForCausalLM, ids: list[int]) -> None:
    prompts = [ids[:20], ids[:20], ids[:12], ids[:40]]
    found = compute_next_token_log_likelihoods(model, prompts, CHOICES)
    expected = torch.stack([log_probabilities(model, prompt)[-1, CHOICES] for prompt in prompts])
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert compute_next_token_log_likelihoods(model, [], CHOICES).shape == (0, 3)


def test_the_shared_prefix_is_computed_once(model: BaichuanForCausalLM, ids: list[int]) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[:2])))
    compute_next_token_log_likelihoods(model, [[*ids[:80], first, 9] for first in (4, 5, 6, 7)], CHOICES)
    hook.remove()
    assert shapes == [(1, 80), (4, 2)]


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_continuations(model: BaichuanForCausalLM, ids: list[int], batch_tokens: int) -> None:
    prompts = [ids[:50] + ids[60:63], ids[:50] + ids[70:71], ids[:50] + ids[80:89]]
    greedy = int(log_probabilities(model, prompts[1])[-1].argmax())
    continuations = [[7, 8, 9], [greedy], [greedy, 3]]
    found = score_continuations(model, prompts, continuations, batch_tokens=batch_tokens)
    for prompt, continuation, score in zip(prompts, continuations, found, strict=True):
        rows = log_probabilities(model, prompt + continuation)[len(prompt) - 1 : -1]
        expected = float(rows.gather(-1, torch.tensor(continuation)[:, None]).sum())
        assert score.log_likelihood == pytest.approx(expected, abs=1e-4)
        assert score.tokens == len(continuation)
    assert [score.greedy for score in found] == [False, True, False]
    assert isinstance(found[0], ContinuationScore)


def test_invalid_sequences_are_rejected(model: BaichuanForCausalLM) -> None:
    with pytest.raises(DatasetError, match="1 tokens cannot be scored"):
        compute_token_log_likelihoods(model, [[5]])
    with pytest.raises(DatasetError, match=r"to 900, but the model has only 768"):
        compute_next_token_log_likelihoods(model, [[5, 900]], CHOICES)
    with pytest.raises(DatasetError, match="0 tokens cannot be scored"):
        score_continuations(model, [[5]], [[]])


@torch.no_grad()
def test_a_model_that_computes_nan_is_rejected(model: BaichuanForCausalLM, ids: list[int]) -> None:
    model.model.norm.weight[3] = torch.nan
    with pytest.raises(CheckpointError, match="produces NaN"):
        compute_token_log_likelihoods(model, [ids])
    with pytest.raises(CheckpointError, match="produces NaN"):
        compute_next_token_log_likelihoods(model, [ids], CHOICES)


def test_golden_families_score_their_own_logits(
    family: Path, load: Callable[..., BaichuanForCausalLM], golden: dict[str, Tensor]
) -> None:
    sequences = golden["full.input_ids"].tolist()
    rows = compute_token_log_likelihoods(load(family), sequences)
    for row, sequence, logits in zip(rows, sequences, golden["full.logits"], strict=True):
        expected = logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(sequence[1:])[:, None])[:, 0]
        torch.testing.assert_close(row, expected, rtol=0, atol=5e-5)
