"""Forward passes over many sequences that may share a prefix."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from baichuan_core.model import BaichuanForCausalLM

BATCH_TOKENS = 16_384


def compute_hidden_states(
    model: BaichuanForCausalLM,
    sequences: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    prefix: Cache | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Compute the final hidden states of every sequence, batching sequences of similar length.

    Rows are padded on the right. Causal attention never reads this padding, so results do not depend on the other rows
    of the batch.

    Args:
        model: The model, in eval mode.
        sequences: Token ids; no sequence may be empty.
        batch_tokens: Maximum number of tokens in a batch, including `prefix` and padding; a longer sequence runs alone.
        prefix: Result of `compute_shared_prefix` for the tokens that precede every sequence.

    Yields:
        The index of each sequence and its states [tokens, hidden], the longest sequence first.
    """
    past = 0 if prefix is None else prefix.get_seq_length()
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    while order:
        longest = len(sequences[order[0]])
        rows = max(1, batch_tokens // (past + longest))
        batch, order = order[:rows], order[rows:]
        states = _run_padded_batch(model, [sequences[index] for index in batch], longest, prefix)
        for index, row in zip(batch, states, strict=True):
            yield index, row[: len(sequences[index])]


@torch.inference_mode()
def compute_shared_prefix(model: BaichuanForCausalLM, token_ids: Sequence[int]) -> Cache | None:
    """Compute the keys and values of a prefix that many sequences share; return None for an empty prefix.

    Batches read the cache and never write to it: concatenating it with a batch's own keys makes a copy that exists
    only while one layer is computed.
    """
    if not token_ids:
        return None
    cache = DynamicCache(config=model.config)
    model.model(torch.tensor([token_ids], device=model.device), past_key_values=cache, use_cache=True)
    computed: list[Any] = cache.layers
    return Cache(layers=[_PrefixLayer(layer.keys, layer.values) for layer in computed])


@torch.inference_mode()
def _run_padded_batch(
    model: BaichuanForCausalLM, sequences: Sequence[Sequence[int]], longest: int, prefix: Cache | None
) -> Tensor:
    padded = [[*ids, *[0] * (longest - len(ids))] for ids in sequences]
    outputs = model.model(torch.tensor(padded, device=model.device), past_key_values=prefix, use_cache=False)
    states: Tensor = outputs.last_hidden_state
    return states


class _PrefixLayer(DynamicLayer):
    """One layer's keys and values [1, heads, prefix, head_dim], prepended to those of every batch."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers leaves it untyped
        self.keys: Tensor = keys
        self.values: Tensor = values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = (key_states.shape[0], -1, -1, -1)
        keys = torch.cat([self.keys.expand(rows), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(rows), value_states], dim=-2)
