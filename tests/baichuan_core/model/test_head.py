"""The normalised head: the same result for every kind of layer that may be `lm_head`."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn

from baichuan_core import BaichuanForCausalLM
from baichuan_core.model import row_norms
from baichuan_core.model.chunked_loss import LinearHead

Load = Callable[..., BaichuanForCausalLM]
Golden = dict[str, Tensor]


@pytest.fixture
def model(golden_root: Path, load: Load) -> BaichuanForCausalLM:
    return load(golden_root / "baichuan2-7b")


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(1, 512, (2, 12), generator=torch.manual_seed(0))


class WithoutAWeight(nn.Module):
    """A head like those of adapters and offloading: linear, but without a readable matrix."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.in_features = inner.in_features

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)
        return output


@torch.no_grad()
def test_forward_never_touches_the_parameter(model: BaichuanForCausalLM, ids: Tensor) -> None:
    before = model.lm_head.weight.clone()
    model(ids)
    model.train()
    model(ids, labels=ids)
    assert torch.equal(model.lm_head.weight, before)


@torch.no_grad()
def test_scale_of_a_row_does_not_matter_even_after_it_was_cached(model: BaichuanForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits
    model.lm_head.weight.mul_(torch.rand(512, 1) + 0.5)
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=2e-5)
    model.lm_head.weight.data = model.lm_head.weight.data * 3
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 12])
def test_writes_that_torch_does_not_count_show_in_a_forward_pass(
    model: BaichuanForCausalLM, ids: Tensor, length: int
) -> None:
    expected = model(ids[:, :length]).logits
    model.lm_head.weight.data.mul_(torch.rand(512, 1) + 0.5)  # as fused optimizers do
    torch.testing.assert_close(model(ids[:, :length]).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("through_data", [False, True])
def test_training_drops_the_cached_norms(model: BaichuanForCausalLM, ids: Tensor, through_data: bool) -> None:
    with torch.no_grad():
        model(ids)
    model.train()
    model(ids, labels=ids).loss.backward()
    with torch.no_grad():
        weight = model.lm_head.weight
        (weight.data if through_data else weight).mul_(torch.rand(512, 1) + 0.5)
        trained = model.eval()(ids).logits
        fresh = BaichuanForCausalLM(model.config).eval()
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(fresh(ids).logits, trained, rtol=0, atol=0)


@torch.no_grad()
def test_a_copied_model_normalises_its_own_head(model: BaichuanForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits
    twin = copy.deepcopy(model)
    twin.lm_head.weight.mul_(torch.rand(512, 1) + 0.5)
    torch.testing.assert_close(twin(ids).logits, expected, rtol=0, atol=2e-5)
    twin.lm_head = model.lm_head
    torch.testing.assert_close(twin(ids).logits, expected, rtol=0, atol=0)


@torch.no_grad()
def test_zero_row_gives_zero_logits_in_half_precision(golden_root: Path, load: Load, ids: Tensor) -> None:
    model = load(golden_root / "baichuan2-7b", dtype=torch.float16)
    model.lm_head.weight[7] = 0
    logits = model(ids).logits
    assert logits.isfinite().all()
    assert (logits[..., 7] == 0).all()


@torch.no_grad()
def test_works_in_inference_mode(model: BaichuanForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.parametrize("skip_logits", [False, True])
def test_replaced_head_gives_equal_logits_and_gradients(
    model: BaichuanForCausalLM, ids: Tensor, skip_logits: bool
) -> None:
    model.train()
    plain = model(ids, labels=ids, skip_logits=skip_logits)
    plain.loss.backward()
    expected = model.lm_head.weight.grad
    assert expected is not None
    inner = model.lm_head
    inner.weight.grad = None
    model.lm_head = WithoutAWeight(inner)
    probed = model(ids, labels=ids, skip_logits=skip_logits)
    assert (probed.logits is None) == skip_logits
    if not skip_logits:
        torch.testing.assert_close(probed.logits, plain.logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(probed.loss, plain.loss)
    probed.loss.backward()
    torch.testing.assert_close(inner.weight.grad, expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_quantized_head_is_normalised_by_its_dequantized_weights(model: BaichuanForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits
    quantized: Any = bitsandbytes.nn.Linear8bitLt(  # type: ignore[attr-defined]
        64, 512, bias=False, has_fp16_weights=False
    )
    quantized.load_state_dict(model.lm_head.state_dict())
    model.lm_head = quantized.to("cpu")
    assert (model(ids).logits - expected).abs().max() < 0.05 * expected.abs().max()


@torch.no_grad()
def test_resized_vocabulary_keeps_a_normalised_head(model: BaichuanForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits
    model.resize_token_embeddings(520)
    assert model.lm_head.out_features == 520
    torch.testing.assert_close(model(ids).logits[..., :512], expected, rtol=0, atol=2e-5)


def test_norms_of_a_plain_and_an_unreadable_layer_agree() -> None:
    head = nn.Linear(300, 20, bias=False)
    torch.testing.assert_close(row_norms(WithoutAWeight(head)), row_norms(head))


@torch.no_grad()
def test_writes_through_data_while_evaluating_are_seen(model: BaichuanForCausalLM, ids: Tensor) -> None:
    expected = model(ids).logits
    model.lm_head.weight.data.mul_(torch.rand(512, 1) + 0.5)  # as moving averages of weights do
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=2e-5)


def test_gradients_after_inference_mode(model: BaichuanForCausalLM, ids: Tensor) -> None:
    model.requires_grad_(False)
    embedded = model.get_input_embeddings()(ids[:, :1]).requires_grad_()
    with torch.inference_mode():
        model(ids[:, :1])
    model(inputs_embeds=embedded).logits.square().sum().backward()
    assert embedded.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("decoding", [False, True])
def test_the_head_alone_gives_the_logits_of_chosen_positions(
    family: Path, load: Load, golden: Golden, decoding: bool
) -> None:
    model = load(family)
    hidden_states = model.model(golden["full.input_ids"]).last_hidden_state
    chosen = hidden_states[torch.tensor([0, 1]), torch.tensor([5, 23])]
    expected = golden["full.logits"][torch.tensor([0, 1]), torch.tensor([5, 23])]
    torch.testing.assert_close(model.compute_logits(chosen, decoding=decoding), expected, rtol=0, atol=2e-5)


class Sharded(LinearHead):
    """A layer like those of ZeRO-3: hooks gather the weight for a forward or backward pass, and empty it afterwards."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.whole = plain.weight.detach().clone()
        self.gathered = 0
        self.weight.ds_id = 0  # type: ignore[attr-defined]
        self.let_go()
        self.register_forward_pre_hook(lambda *_: self.gather())
        self.register_forward_hook(self._after)

    def gather(self) -> None:
        self.gathered += 1
        self.weight.data = self.whole

    def let_go(self) -> None:
        self.weight.data = torch.empty(0)

    def _after(self, _layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        self.let_go()
        if output.requires_grad:
            output.register_hook(lambda _: self.gather())
        return output


def test_a_sharded_head_is_normalised_while_it_is_gathered(model: BaichuanForCausalLM, ids: Tensor) -> None:
    plain = model(ids, labels=ids)
    plain.loss.backward()
    expected = model.lm_head.weight.grad
    sharded = Sharded(model.lm_head)
    model.lm_head = sharded
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, plain.logits, rtol=0, atol=2e-5)
    assert sharded.gathered == 1
    model.train()
    for gathered, skip_logits in ((2, True), (4, False)):
        output = model(ids, labels=ids, skip_logits=skip_logits)
        assert sharded.gathered == gathered
        output.loss.backward()
        torch.testing.assert_close(sharded.weight.grad, expected)
        sharded.weight.grad = None
        sharded.let_go()


@torch.no_grad()
@pytest.mark.parametrize("decoding", [False, True])
def test_kept_norms_are_not_computed_again(
    model: BaichuanForCausalLM, ids: Tensor, decoding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(ids)
    with_kept = model(ids[:, :1] if decoding else ids).logits

    def refuse(_head: nn.Module) -> Tensor:
        raise AssertionError("computed again")

    monkeypatch.setattr("baichuan_core.model.head.row_norms", refuse)
    assert torch.equal(model(ids[:, :1] if decoding else ids).logits, with_kept)
