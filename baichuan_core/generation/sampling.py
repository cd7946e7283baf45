"""Sampling whose noise belongs to the request, so that a batch does not change what comes out."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from baichuan_core.errors import CheckpointError


class RefuseNotANumber(LogitsProcessor):
    """Ends the run at logits that are no numbers, from which greedy decoding would write empty answers."""

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [batch, vocab], unchanged.

        Raises:
            CheckpointError: One of them is NaN.
        """
        if scores.isnan().any():
            raise CheckpointError(
                "the model computes values that are no numbers: its weights are damaged, or its activations too large"
                " for float16; copy the checkpoint again, or use dtype 'bfloat16' or 'float32'"
            )
        return scores


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to the logits, so that their argmax is a sample of softmax(logits) (Gumbel 1954).

    Each row draws from a generator of its own, [batch] of them, one row of noise a step.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [batch, vocab] to the same shape, in float32."""
        waiting_times = torch.stack(
            [torch.empty_like(scores[0], dtype=torch.float32).exponential_(generator=one) for one in self.generators]
        )
        return scores.float() - waiting_times.log()  # -log of an exponential variable is a Gumbel one


def sampling_processors(
    *, temperature: float, top_k: int, top_p: float, seeds: Sequence[int], device: torch.device
) -> LogitsProcessorList:
    """Temperature, top-k, top-p and the noise, in transformers' order; decode greedily after them."""
    processors = LogitsProcessorList([RefuseNotANumber()])
    if temperature != 1.0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    processors.append(GumbelNoise(seeds, device))
    return processors
