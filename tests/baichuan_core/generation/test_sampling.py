"""The noise: right frequencies, one row never disturbs another."""

import pytest
import torch

from baichuan_core.generation.sampling import sampling_processors
from baichuan_core.generation.seeds import request_seed

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
NO_IDS = torch.LongTensor(1, 0)
CPU = torch.device("cpu")


def draw(count: int, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Frequencies of ``count`` independent draws."""
    processors = sampling_processors(temperature=temperature, top_k=top_k, top_p=top_p, seeds=range(count), device=CPU)
    chosen = processors(NO_IDS, torch.FloatTensor(LOGITS.repeat(count, 1))).argmax(dim=-1)
    return torch.bincount(chosen, minlength=len(LOGITS)) / count


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"), [(1.0, 0, 1.0, 5), (0.5, 0, 1.0, 5), (1.0, 2, 1.0, 2), (1.0, 0, 0.8, 3)]
)
def test_tokens_come_as_often_as_the_softmax_says(temperature: float, top_k: int, top_p: float, kept: int) -> None:
    expected = torch.zeros(len(LOGITS))
    expected[:kept] = (LOGITS[:kept] / temperature).softmax(dim=-1)
    assert (draw(8000, temperature, top_k, top_p) - expected).abs().max() < 0.02


def test_a_row_draws_the_same_alone_and_in_a_batch() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    alone = [
        sampling_processors(temperature=1.0, top_k=0, top_p=1.0, seeds=[seed], device=CPU)(NO_IDS, logits[[row]])
        for row, seed in enumerate((7, 8, 9))
    ]
    together = sampling_processors(temperature=1.0, top_k=0, top_p=1.0, seeds=[7, 8, 9], device=CPU)(NO_IDS, logits)
    assert torch.equal(torch.cat(alone), together)


def test_the_seed_of_a_request_follows_from_run_prompt_repetition_and_sample() -> None:
    seeds = {request_seed(*one) for one in ((0, [1, 2], 0, 0), (1, [1, 2], 0, 0), (0, [12], 0, 0), (0, [1, 2], 1, 0))}
    assert len(seeds | {request_seed(0, [1, 2], 0, 1)}) == 5
    assert request_seed(0, [1, 2], 0, 0) in seeds
