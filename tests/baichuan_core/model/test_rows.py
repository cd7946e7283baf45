"""Rows of different lengths in one cache, with a mask for the keys that each row sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Cache

from baichuan_core import BaichuanForCausalLM

Load = Callable[..., BaichuanForCausalLM]
Golden = dict[str, Tensor]
SLOTS, KEYS = 3, 64


class RowsCache(Cache):
    """A cache with each row's keys and values from index 0 on, followed by leftovers of other rows."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths = torch.zeros(SLOTS, dtype=torch.long)
        self.positions = torch.zeros(SLOTS, 0, dtype=torch.long)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        return self._write(self.keys, layer_idx, key_states), self._write(self.values, layer_idx, value_states)

    def _write(self, kept: list[Tensor | None], layer: int, states: Tensor) -> Tensor:
        rows = kept[layer]
        if rows is None:
            rows = kept[layer] = torch.full((SLOTS, states.shape[1], KEYS, states.shape[3]), 1e3, dtype=states.dtype)
        rows[torch.arange(SLOTS)[:, None], :, self.positions] = states.transpose(1, 2)
        return rows


def step(model: BaichuanForCausalLM, cache: RowsCache, ids: Tensor) -> Tensor:
    """Compute the logits [rows, queries, vocab] of the next tokens of every row."""
    cache.positions = cache.lengths[:, None] + torch.arange(ids.shape[1])
    visible = torch.arange(KEYS) <= cache.positions[:, None, :, None]  # [rows, 1, queries, keys]
    output = model.model(ids, attention_mask=visible, position_ids=cache.positions, past_key_values=cache)
    cache.lengths = cache.lengths + ids.shape[1]
    return model.compute_logits(output.last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("parts", [[1] * 20, [4, 4, 4, 4, 4], [20], [17, 1, 2]], ids=str)
def test_rows_of_different_lengths_give_the_same_result_as_alone(
    family: Path, load: Load, implementation: str, parts: list[int]
) -> None:
    """One and several queries, so that the ALiBi bias is once in the mask and once in columns."""
    model = load(family, attn_implementation=implementation)
    starts = torch.tensor([0, 9, 31])
    rows = torch.randint(3, 512, (SLOTS, 31 + 20), generator=torch.manual_seed(0))
    cache = RowsCache(model.config.num_hidden_layers)
    step(model, cache, rows[:, :31])
    cache.lengths = starts  # later positions no longer count
    following = torch.stack([row[start : start + 20] for row, start in zip(rows, starts, strict=True)])
    logits = torch.cat([step(model, cache, part) for part in following.split(parts, dim=1)], dim=1)
    for row, start, actual in zip(rows, starts, logits, strict=True):
        expected = model(row[None, : start + 20]).logits[0, start:]
        torch.testing.assert_close(actual, expected, rtol=0, atol=5e-5)
