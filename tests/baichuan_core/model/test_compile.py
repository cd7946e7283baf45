"""A decode step compiles to one graph, which `generate` with a static cache needs on a GPU."""

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


@torch.no_grad()
def test_a_compiled_decode_step_reads_the_cached_norms(golden_root: Path, load: Load) -> None:
    """Computing the norms of a 7B head reads 1 GB, so they are cached; a change of the weights is still noticed."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    model = load(golden_root / "baichuan2-7b")
    step: Any = torch.compile(model.forward, backend=keep, fullgraph=True)
    ids = torch.randint(3, 512, (1, 9), generator=torch.manual_seed(0))
    for scale in (1.0, 3.0):
        model.lm_head.weight[::2] *= scale  # normalization removes the factor
        cache = StaticCache(config=model.config, max_cache_len=16)
        model(ids[:, :8], past_key_values=cache)
        compiled = step(ids[:, 8:], past_key_values=cache).logits[:, -1]
        torch.testing.assert_close(compiled, model(ids).logits[:, -1], rtol=0, atol=2e-5)
    assert len(graphs) == 1
    inputs = [node.name for node in graphs[0].graph.nodes if node.op == "placeholder"]
    assert any("norms" in name for name in inputs)
