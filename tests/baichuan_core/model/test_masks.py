"""Packing, padding and chunked prefill: what a query sees does not depend on how the tokens are passed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from baichuan_core import BaichuanForCausalLM

Load = Callable[..., BaichuanForCausalLM]
Golden = dict[str, Tensor]


@pytest.fixture(params=["sdpa", "eager"])
def model(family: Path, load: Load, request: pytest.FixtureRequest) -> BaichuanForCausalLM:
    return load(family, attn_implementation=request.param)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_packed_examples_do_not_see_each_other(model: BaichuanForCausalLM, golden: Golden) -> None:
    first, second = golden["full.input_ids"][:1, :9], golden["full.input_ids"][1:, :12]
    packed = torch.cat((first, second, torch.zeros(1, 3, dtype=torch.long)), dim=1)
    examples = torch.tensor([[1] * 9 + [2] * 12 + [0] * 3])
    logits = model(packed, attention_mask=examples).logits
    assert_close(logits[:, :9], model(first).logits)
    assert_close(logits[:, 9:21], model(second).logits)


@torch.no_grad()
def test_a_batch_may_contain_a_packed_and_a_plain_row(model: BaichuanForCausalLM, golden: Golden) -> None:
    ids = golden["full.input_ids"]
    examples = torch.ones_like(ids)
    examples[0, 10:] = 2
    logits = model(ids, attention_mask=examples).logits
    assert_close(logits[1], golden["full.logits"][1])
    assert_close(logits[:1, 10:], model(ids[:1, 10:]).logits)


@torch.no_grad()
def test_positions_that_start_again_separate_examples_too(model: BaichuanForCausalLM, golden: Golden) -> None:
    ids = golden["full.input_ids"]
    positions = torch.cat((torch.arange(10), torch.arange(14)))[None]
    logits = model(ids, position_ids=positions, use_cache=False).logits
    assert_close(logits[:, 10:], model(ids[:, 10:]).logits)


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_prefill_in_chunks(model: BaichuanForCausalLM, golden: Golden, static: bool, masked: bool) -> None:
    ids, mask = golden["pad_left.input_ids"], golden["pad_left.attention_mask"]
    expected = model(ids, attention_mask=mask if masked else None).logits
    cache = StaticCache(config=model.config, max_cache_len=40) if static else DynamicCache()
    chunks = []
    for start, end in ((0, 10), (10, 18), (18, 19), (19, 24)):
        seen = mask[:, :end] if masked else None
        chunks.append(model(ids[:, start:end], attention_mask=seen, past_key_values=cache).logits)
    logits = torch.cat(chunks, dim=1)
    real = mask.bool() if masked else torch.ones_like(mask, dtype=torch.bool)
    assert_close(logits[real], expected[real])


@torch.no_grad()
def test_packed_examples_in_chunks_on_a_cache(model: BaichuanForCausalLM, golden: Golden) -> None:
    ids = golden["full.input_ids"][:1]
    examples = torch.tensor([[1] * 11 + [2] * 13])
    cache = StaticCache(config=model.config, max_cache_len=32)
    model(ids[:, :14], attention_mask=examples[:, :14], past_key_values=cache)
    rest = model(ids[:, 14:], attention_mask=examples, past_key_values=cache).logits
    assert_close(rest, model(ids[:, 11:]).logits[:, 3:])


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_left_padded_batch_generates_as_single_rows(model: BaichuanForCausalLM, golden: Golden, cache: str) -> None:
    ids, mask = golden["pad_left.input_ids"], golden["pad_left.attention_mask"]
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": 511, "pad_token_id": 0}
    together = model.generate(ids, attention_mask=mask, cache_implementation=cache, **settings)
    for row in range(2):
        alone = model.generate(ids[row : row + 1, mask[row] == 1], **settings)
        assert together[row, -6:].tolist() == alone[0, -6:].tolist()


@torch.no_grad()
def test_attention_weights_with_eager_attention(family: Path, load: Load, golden: Golden) -> None:
    model = load(family, attn_implementation="eager")
    output = model(golden["full.input_ids"], output_attentions=True, output_hidden_states=True)
    assert len(output.attentions) == model.config.num_hidden_layers
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    for weights in output.attentions:
        assert weights.shape == (2, model.config.num_attention_heads, 24, 24)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        assert weights.triu(diagonal=1).abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_alibi_distinguishes_the_last_keys_in_half_precision(golden_root: Path, load: Load, dtype: torch.dtype) -> None:
    """Absolute positions in half precision, as in the published code, would be wrong by whole slopes here."""
    ids = torch.randint(1, 512, (1, 1500), generator=torch.manual_seed(0))
    exact = load(golden_root / "baichuan1-13b")(ids, logits_to_keep=16).logits
    half = load(golden_root / "baichuan1-13b", dtype=dtype)(ids, logits_to_keep=16).logits
    assert (half.float() - exact).abs().max() < 0.02 * exact.abs().max()
