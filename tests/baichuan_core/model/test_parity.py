"""Parity with every recorded case of every family, with both attention implementations."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from baichuan_core import BaichuanForCausalLM

pytestmark = pytest.mark.parity

LOGITS_TOLERANCE = 2e-5
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4

Load = Callable[..., BaichuanForCausalLM]
Golden = dict[str, Tensor]


@pytest.fixture(params=["sdpa", "eager"])
def model(family: Path, load: Load, request: pytest.FixtureRequest) -> BaichuanForCausalLM:
    return load(family, attn_implementation=request.param)


@pytest.fixture(params=["dynamic", "static"])
def make_cache(request: pytest.FixtureRequest) -> Callable[[BaichuanForCausalLM], Cache]:
    if request.param == "dynamic":
        return lambda model: DynamicCache(config=model.config)
    return lambda model: StaticCache(config=model.config, max_cache_len=32)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = LOGITS_TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_full_forward(model: BaichuanForCausalLM, golden: Golden) -> None:
    assert_close(model(golden["full.input_ids"]).logits, golden["full.logits"])


@torch.no_grad()
@pytest.mark.parametrize("side", ["pad_left", "pad_right"])
def test_padded_forward(model: BaichuanForCausalLM, golden: Golden, side: str) -> None:
    mask = golden[f"{side}.attention_mask"]
    logits = model(golden[f"{side}.input_ids"], attention_mask=mask).logits
    assert_close(logits[mask.bool()], golden[f"{side}.logits"][mask.bool()])


@torch.no_grad()
def test_left_padding_changes_nothing(model: BaichuanForCausalLM, golden: Golden) -> None:
    ids, mask = golden["pad_left.input_ids"], golden["pad_left.attention_mask"]
    padding = int((mask[1] == 0).sum())
    unpadded = model(ids[1:, padding:]).logits
    assert_close(unpadded, golden["unpadded_left.logits"])
    assert_close(model(ids, attention_mask=mask).logits[1:, padding:], unpadded)


@torch.no_grad()
def test_prefill_and_single_steps(
    model: BaichuanForCausalLM, golden: Golden, make_cache: Callable[[BaichuanForCausalLM], Cache]
) -> None:
    ids, cache = golden["full.input_ids"], make_cache(model)
    steps = [ids[:, :16], *ids[:, 16:].split(1, dim=1)]
    logits = [model(step, past_key_values=cache, use_cache=True).logits[:, -1] for step in steps]
    assert_close(torch.stack(logits, dim=1), golden["cached.logits"])


@pytest.mark.parametrize("cache", [None, "static"])
def test_greedy_generation(model: BaichuanForCausalLM, golden: Golden, cache: str | None) -> None:
    expected = golden["greedy.ids"]
    generated = model.generate(
        expected[:, :8],
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=model.config.vocab_size,  # no token ends the completion
        cache_implementation=cache,
    )
    assert generated.tolist() == expected.tolist()


def test_training_loss_and_gradients(model: BaichuanForCausalLM, golden: Golden) -> None:
    model.train()
    whole = model(golden["full.input_ids"], labels=golden["train.labels"], skip_logits=False)
    assert_close(whole.logits, golden["train.logits"])
    assert_close(whole.loss[None], golden["train.loss"], LOSS_TOLERANCE)
    output = model(golden["full.input_ids"], labels=golden["train.labels"])
    assert output.logits is None
    assert_close(output.loss[None], golden["train.loss"], LOSS_TOLERANCE)
    output.loss.backward()
    recorded = {key.removeprefix("train.grad."): golden[key] for key in golden if key.startswith("train.grad.")}
    assert recorded
    for name, expected in recorded.items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert (gradient - expected).norm() <= GRADIENT_TOLERANCE * expected.norm(), name


@torch.no_grad()
def test_normalised_head(family: Path, golden: Golden, load: Load) -> None:
    model = load(family, norm_head=True)
    assert_close(model(golden["full.input_ids"]).logits, golden["normalized_head.logits"])


@torch.no_grad()
def test_sharded_bin_with_persisted_rotation_buffers(golden_root: Path, load: Load) -> None:
    directory = golden_root / "checkpoints" / "baichuan2-7b-sharded-bin-inv_freq"
    expected = load_file(directory / "golden.safetensors")
    assert_close(load(directory)(expected["input_ids"]).logits, expected["logits"], 5e-5)
