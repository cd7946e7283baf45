"""ALiBi through a mask and through extra columns: both are exact, and long prompts need no mask per head."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, StaticCache

from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from baichuan_core.model.alibi import add_alibi, compute_alibi_columns, compute_alibi_slopes

Load = Callable[..., BaichuanForCausalLM]
HEADS, HEAD_DIM, TOKENS = 40, 128, 600
SCALING = HEAD_DIM**-0.5


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=SCALING, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mask_and_columns_agree_with_float64(dtype: torch.dtype) -> None:
    generator = torch.manual_seed(0)
    query, key, value = (torch.randn(1, HEADS, TOKENS, HEAD_DIM, generator=generator).to(dtype) for _ in range(3))
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[None, None]
    distances = torch.arange(TOKENS) - torch.arange(TOKENS)[:, None]
    bias = compute_alibi_slopes(HEADS)[:, None, None].double() * distances
    expected = attention(query.double(), key.double(), value.double(), bias.masked_fill(~causal, -torch.inf))

    slopes, standing = compute_alibi_slopes(HEADS), torch.arange(TOKENS)[None]
    columns = compute_alibi_columns(slopes, standing, TOKENS, SCALING, query)
    in_columns = attention(*columns.prepend_to(query, key, value), is_causal=True)[..., :HEAD_DIM]
    in_mask = attention(query, key, value, add_alibi(causal, slopes, dtype))
    tolerance = 2e-5 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps
    for actual in (in_columns, in_mask):
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


@given(
    heads=st.integers(1, 64),
    queries=st.integers(1, 40),
    past=st.integers(0, 70_000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_product_of_the_columns_is_the_bias(heads: int, queries: int, past: int, dtype: torch.dtype) -> None:
    slopes, standing = compute_alibi_slopes(heads), past + torch.arange(queries)[None]
    like = torch.empty(0, dtype=dtype)
    query, key = compute_alibi_columns(slopes, standing, past + queries, SCALING, like)
    nearby = key[:, :, -256:].double()
    bias = query.double() @ nearby.transpose(-2, -1) * SCALING
    distances = torch.arange(past + queries)[-256:] - standing[..., None]
    expected = slopes.double()[:, None, None] * distances
    difference = bias - expected
    constant_of_the_query = difference[..., :1]
    torch.testing.assert_close(difference, constant_of_the_query.expand_as(difference), rtol=0, atol=1e-4)
    # The constant need not be exact, but it must be close to the largest bias, to keep the sums small.
    assert constant_of_the_query.abs().max() <= 0.01 * queries + 0.01


class LargestOfAll(TorchDispatchMode):
    """Tracks the bytes of all existing tensors and their maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, key, None)
        self.peak = max(self.peak, sum(self.alive.values()))


@pytest.fixture(scope="module")
def long_model() -> BaichuanForCausalLM:
    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=64, hidden_size=320, intermediate_size=320, num_hidden_layers=2, num_attention_heads=40,
        model_max_length=2048, norm_head=False,
    )  # fmt: skip
    model = BaichuanForCausalLM(config)
    model.eval()
    return model


@pytest.mark.parametrize("case", ["plain", "left padded", "packed", "static cache", "in chunks", "training"])
def test_no_tensor_of_heads_by_tokens_by_tokens(long_model: BaichuanForCausalLM, case: str) -> None:
    tokens, heads = 2048, long_model.config.num_attention_heads
    ids = torch.randint(3, 64, (1, tokens), generator=torch.manual_seed(0))
    mask = torch.ones_like(ids)
    if case == "left padded":
        mask[:, :7] = 0
    if case == "packed":
        mask[:, 1000:] = 2
    cache = StaticCache(config=long_model.config, max_cache_len=tokens) if case == "static cache" else DynamicCache()
    with LargestOfAll() as tensors, torch.set_grad_enabled(case == "training"):
        if case == "training":
            long_model(ids, labels=ids, use_cache=False).loss.backward()
        elif case == "in chunks":
            for chunk in ids.split(512, dim=1):
                long_model(chunk, past_key_values=cache, logits_to_keep=1)
        else:
            long_model(ids, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
    assert tensors.peak < heads * tokens * tokens * 4 / 4
    long_model.zero_grad()


@torch.no_grad()
def test_a_short_row_is_exact_in_a_long_cache(golden_root: Path, load: Load) -> None:
    """Positions are relative to each row's own last key; relative to the end of the cache they would lose digits."""
    ids = torch.randint(1, 512, (1, 40), generator=torch.manual_seed(0))
    exact = load(golden_root / "baichuan1-13b")(ids).logits
    model = load(golden_root / "baichuan1-13b", dtype=torch.bfloat16)
    cache = StaticCache(config=model.config, max_cache_len=4000)
    steps = [model(part, past_key_values=cache).logits for part in (ids[:, :32], ids[:, 32:39], ids[:, 39:])]
    assert (torch.cat(steps, dim=1).float() - exact).abs().max() < 0.04 * exact.abs().max()
