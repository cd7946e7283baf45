"""A decode step is one graph, as generate() with a static cache on a GPU wants it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from baichuan_core import BaichuanForCausalLM

Load = Callable[..., BaichuanForCausalLM]


@torch.no_grad()
def test_decode_step_compiles_without_a_graph_break(family: Path, golden: dict[str, Tensor], load: Load) -> None:
    model = load(family)
    step: Any = torch.compile(model.forward, backend="eager", fullgraph=True)
    ids, cache = golden["full.input_ids"], StaticCache(config=model.config, max_cache_len=32)
    model(ids[:, :16], past_key_values=cache)
    for position in range(16, 19):
        logits = step(ids[:, position : position + 1], past_key_values=cache).logits[:, -1]
        expected = golden["cached.logits"][:, position - 15]
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)
