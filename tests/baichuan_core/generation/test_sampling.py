"""Sampling: correct frequencies, transformers' filters and penalty, and independent rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from baichuan_core.generation.engines.contract import SamplingSettings
from baichuan_core.generation.engines.native.sampler import Sampler, compute_logprobs
from baichuan_core.generation.seeds import compute_uniform_numbers, derive_completion_seed

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
CPU = torch.device("cpu")
SETTINGS = [
    SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0),
    SamplingSettings(temperature=0.7, top_k=7, top_p=1.0, repetition_penalty=1.0),
    SamplingSettings(temperature=1.5, top_k=0, top_p=0.6, repetition_penalty=1.0),
    SamplingSettings(temperature=0.3, top_k=5, top_p=0.85, repetition_penalty=1.3),
    SamplingSettings(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=0.8),
]


def draw(count: int, sampling: SamplingSettings, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    """Return the frequencies of `count` independent draws."""
    tokens = Sampler([sampling] * count, CPU).choose_tokens(logits.repeat(count, 1), None, range(count), [3] * count)
    return torch.bincount(tokens, minlength=len(logits)) / count


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"), [(1.0, 0, 1.0, 5), (0.5, 0, 1.0, 5), (1.0, 2, 1.0, 2), (1.0, 0, 0.8, 3)]
)
def test_frequencies_of_tokens_follow_the_softmax(temperature: float, top_k: int, top_p: float, kept: int) -> None:
    expected = torch.zeros(len(LOGITS))
    expected[:kept] = (LOGITS[:kept] / temperature).softmax(dim=-1)
    assert (draw(8000, SamplingSettings(temperature, top_k, top_p, 1.0)) - expected).abs().max() < 0.02


@given(
    logits=st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=2, max_size=12, unique=True),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_the_filters_keep_the_same_tokens_as_those_of_transformers(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    scores = torch.tensor([logits])
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    expected = processors(torch.LongTensor(1, 0), torch.FloatTensor(scores)).softmax(dim=-1)[0]
    frequencies = draw(2000, SamplingSettings(temperature, top_k, top_p, 1.0), scores[0])
    assert frequencies[expected == 0].sum() == 0
    assert (frequencies - expected).abs().max() < 0.06


@pytest.mark.parametrize("spread", [6.0, 0.1])
def test_a_large_vocabulary_is_filtered_correctly_whether_sharp_or_flat(spread: float) -> None:
    logits = torch.randn(3, 3000, generator=torch.Generator().manual_seed(2)) * spread
    settings = [
        SamplingSettings(1.0, 0, 0.8, 1.0),
        SamplingSettings(0.9, 0, 0.5, 1.0),
        SamplingSettings(1.0, 700, 0.9, 1.0),
    ]
    processors: list[list[LogitsProcessor]] = [
        [TopPLogitsWarper(0.8)],
        [TemperatureLogitsWarper(0.9), TopPLogitsWarper(0.5)],
        [TopKLogitsWarper(700), TopPLogitsWarper(0.9)],
    ]
    no_ids = torch.LongTensor(1, 0)
    for row, chain in enumerate(processors):
        left = LogitsProcessorList(chain)(no_ids, torch.FloatTensor(logits[[row]]))[0].softmax(dim=-1)
        # Sampling inverts the cumulative distribution function, in the order of ids.
        for step in range(20):
            chosen = Sampler(settings, CPU).choose_tokens(logits, None, [5] * 3, [step] * 3)[row]
            noise = float(compute_uniform_numbers([5], [step])[0])
            assert left[:chosen].sum() - 1e-4 <= noise <= left[: chosen + 1].sum() + 1e-4
            assert left[chosen] > 0


def test_the_penalty_equals_that_of_transformers() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * 3
    history = torch.tensor([[1, 2, 2, 9], [5, 5, 5, 5], [0, 39, 7, 3]])
    penalties = (1.4, 1.0, 0.6)
    chosen = Sampler([SamplingSettings(0, 0, 1.0, penalty) for penalty in penalties], CPU).choose_tokens(
        logits, history, [0] * 3, [0] * 3
    )
    for row, penalty in enumerate(penalties):
        scores = RepetitionPenaltyLogitsProcessor(penalty)(history[[row]], logits[[row]].clone())
        assert chosen[row] == scores.argmax()


def test_a_row_draws_the_same_alone_and_in_a_batch_of_other_settings() -> None:
    logits = torch.randn(len(SETTINGS), 50, generator=torch.Generator().manual_seed(0))
    history = torch.arange(4).repeat(len(SETTINGS), 1)
    for step in range(30):
        steps, seeds = [step] * len(SETTINGS), range(len(SETTINGS))
        together = Sampler(SETTINGS, CPU).choose_tokens(logits, history, seeds, steps)
        alone = [
            Sampler([sampling], CPU).choose_tokens(logits[[row]], history[[row]], [row], [step])
            for row, sampling in enumerate(SETTINGS)
        ]
        assert torch.equal(torch.cat(alone), together)


def test_ties_in_half_precision_are_resolved_the_same_alone_and_in_a_batch() -> None:
    settings = [
        SamplingSettings(1.0, 5, 1.0, 1.0),
        SamplingSettings(1.0, 50, 1.0, 1.0),
        SamplingSettings(2.0, 900, 0.7, 1.0),
    ]
    logits = (torch.randn(3, 9000, generator=torch.Generator().manual_seed(3)) * 2).round().bfloat16()
    for step in range(20):
        together = Sampler(settings, CPU).choose_tokens(logits, None, range(3), [step] * 3)
        alone = [
            Sampler([one], CPU).choose_tokens(logits[[row]], None, [row], [step])[0] for row, one in enumerate(settings)
        ]
        assert together.tolist() == alone


def test_of_equal_tokens_those_with_the_lowest_ids_are_kept() -> None:
    logits = torch.zeros(3000)
    logits[2000:] = 1.0
    for sampling, most in ((SamplingSettings(1.0, 7, 1.0, 1.0), 7), (SamplingSettings(0.5, 0, 0.01, 1.0), 14)):
        drawn = draw(400, sampling, logits).nonzero()[:, 0].tolist()
        assert drawn == list(range(2000, 2000 + len(drawn)))
        assert 5 <= len(drawn) <= most


def test_only_a_row_with_a_logit_that_is_nan_gets_no_token() -> None:
    logits = torch.zeros(3, 8)
    logits[1, 5] = float("nan")
    for sampling in SETTINGS:
        tokens = Sampler([sampling] * 3, CPU).choose_tokens(
            logits, torch.zeros(3, 1, dtype=torch.int64), [0] * 3, [0] * 3
        )
        assert (tokens == -1).tolist() == [False, True, False]


def test_bias_and_penalties_change_single_logits_of_a_copy() -> None:
    logits = torch.zeros(3, 6)
    kept = logits.clone()
    settings = [
        SamplingSettings(0, 0, 1, 1, logit_bias=((4, 1.0), (2, -1.0))),
        SamplingSettings(0, 0, 1, 1, presence_penalty=1.0, logit_bias=((0, 0.9), (1, 0.5))),
        SamplingSettings(0, 0, 1, 1, frequency_penalty=-0.5),
    ]
    completions = [[4, 4], [0, 0], [3, 5, 5]]
    sampler = Sampler(settings, CPU)
    assert sampler.choose_tokens(logits, None, [0] * 3, [0] * 3, completions).tolist() == [4, 1, 5]
    assert sampler.choose_tokens(logits, None, [0] * 3, [0] * 3, [[], [], []]).tolist() == [4, 0, 0]
    assert torch.equal(logits, kept)


def test_logprobs_are_computed_before_sampling_for_the_rows_that_request_them() -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    first, none, zero = compute_logprobs(logits, [4, 5, 6], [3, None, 0])
    logs = logits.log_softmax(dim=-1)
    assert none is None
    assert first is not None
    assert zero is not None
    assert first.logprob == pytest.approx(logs[0, 4].item())
    assert [token for token, _ in first.alternatives] == logs[0].topk(3).indices.tolist()
    assert [value for _, value in first.alternatives] == pytest.approx(logs[0].topk(3).values.tolist())
    assert zero.alternatives == ()


def test_the_seed_of_a_request_depends_on_run_prompt_repetition_and_sample() -> None:
    seeds = {
        derive_completion_seed(*one)
        for one in ((0, [1, 2], 0, 0), (1, [1, 2], 0, 0), (0, [12], 0, 0), (0, [1, 2], 1, 0))
    }
    assert len(seeds | {derive_completion_seed(0, [1, 2], 0, 1)}) == 5
    assert derive_completion_seed(0, [1, 2], 0, 0) in seeds


def test_random_numbers_are_those_of_splitmix64() -> None:
    # The first outputs of the published generator for state 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    numbers = compute_uniform_numbers([1234567] * 3, range(3))
    assert numbers.tolist() == [(output >> 11) / 2**53 for output in published]
    many = compute_uniform_numbers([derive_completion_seed(0, [1], 0, 0)] * 10_000, range(10_000))
    assert abs(many.mean() - 0.5) < 0.01
    assert many.max() < 1
