"""From hidden states to the distribution of the next token, a slice of positions at a time."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from baichuan_core.model import BaichuanForCausalLM, row_norms

# [positions, vocabulary] in float32 takes 64 MB at most: 133 positions for Baichuan 2.
NUMBERS_IN_A_SLICE = 2**24


class OutputHead:
    """The output head of a model, which outlives the rest of it.

    Args:
        model: Where the head is taken from; it is not copied.
    """

    def __init__(self, model: BaichuanForCausalLM) -> None:
        self._layer = model.lm_head
        self._norms = row_norms(model.lm_head).detach() if model.config.norm_head else None
        # A quantized head may keep its codes in buffers.
        self._device = next(chain(model.lm_head.parameters(), model.lm_head.buffers())).device
        self.positions = max(1, NUMBERS_IN_A_SLICE // model.config.vocab_size)

    def log_probabilities(self, hidden_states: Tensor) -> Iterator[Tensor]:
        """Logarithms (nats) of the distributions after `hidden_states` [tokens, hidden].

        Yields:
            float32 [positions, vocab] for one slice of the tokens after another.
        """
        for slice_ in hidden_states.split(self.positions):
            yield self._logits(slice_.to(self._device)).float().log_softmax(dim=-1)

    def gathered(self, hidden_states: Tensor, token_ids: Tensor) -> Tensor:
        """Log-likelihoods, float32 [tokens, choices] on the CPU, of `token_ids` [tokens, choices]."""
        slices = zip(self.log_probabilities(hidden_states), token_ids.split(self.positions), strict=True)
        return torch.cat([probs.gather(-1, ids.to(probs.device)).cpu() for probs, ids in slices])

    def _logits(self, hidden_states: Tensor) -> Tensor:
        logits: Tensor = self._layer(hidden_states)
        return logits if self._norms is None else (logits / self._norms.to(logits.device)).to(logits.dtype)
