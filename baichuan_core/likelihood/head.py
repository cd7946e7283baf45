"""Next-token distributions computed from hidden states, one slice of positions at a time."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from baichuan_core.model import BaichuanForCausalLM, row_norms

# Maximum number of elements in a slice [positions, vocab]: 64 MiB in float32, i.e. 133 positions for Baichuan 2.
MAX_SLICE_ELEMENTS = 2**24


class OutputHead:
    """The output head of a model; usable after the rest of the model has been released.

    Args:
        model: The model whose head is used; the head is not copied.
    """

    def __init__(self, model: BaichuanForCausalLM) -> None:
        self._layer = model.lm_head
        self._norms = row_norms(model.lm_head).detach() if model.config.norm_head else None
        # A quantized head may have no parameters, only buffers that contain its codes.
        self._device = next(chain(model.lm_head.parameters(), model.lm_head.buffers())).device
        self.positions = max(1, MAX_SLICE_ELEMENTS // model.config.vocab_size)

    def compute_log_probabilities(self, hidden_states: Tensor) -> Iterator[Tensor]:
        """Compute the log-probabilities (nats) of the next token for `hidden_states` [tokens, hidden].

        Yields:
            float32 [positions, vocab] for consecutive slices of the tokens.
        """
        for slice_ in hidden_states.split(self.positions):
            yield self._compute_logits(slice_.to(self._device)).float().log_softmax(dim=-1)

    def gather_log_likelihoods(self, hidden_states: Tensor, token_ids: Tensor) -> Tensor:
        """Return the log-likelihoods of `token_ids` [tokens, choices]: float32 [tokens, choices] on the CPU."""
        slices = zip(self.compute_log_probabilities(hidden_states), token_ids.split(self.positions), strict=True)
        return torch.cat([probs.gather(-1, ids.to(probs.device)).cpu() for probs, ids in slices])

    def _compute_logits(self, hidden_states: Tensor) -> Tensor:
        logits: Tensor = self._layer(hidden_states)
        return logits if self._norms is None else (logits / self._norms.to(logits.device)).to(logits.dtype)
