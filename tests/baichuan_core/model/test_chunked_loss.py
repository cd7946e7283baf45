"""The chunked loss against that of all logits: equal values and gradients, with less memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from baichuan_core.model import chunked_loss

VOCABULARY, HIDDEN = 300, 32
Make = Callable[..., BaichuanForCausalLM]


class LargestLogits(TorchDispatchMode):
    """Remember the most elements of any tensor [..., vocabulary] that an operation returned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.shape[-1:] == (VOCABULARY,):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.fixture(autouse=True)
def _few_positions_per_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "MAX_LOGITS_PER_CHUNK", {"cpu": 7 * VOCABULARY, "cuda": 7 * VOCABULARY})
    monkeypatch.setattr(chunked_loss, "WEIGHTS_PER_CHUNK", 11 * HIDDEN)


@pytest.fixture(params=["rope", "alibi"])
def make(request: pytest.FixtureRequest) -> Make:
    """Make the same random model every time."""
    length = "model_max_length" if request.param == "alibi" else "max_position_embeddings"

    def build(**fields: Any) -> BaichuanForCausalLM:
        torch.manual_seed(0)
        config = BaichuanConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, **{length: 64, "norm_head": True, **fields},
        )  # fmt: skip
        model = BaichuanForCausalLM(config)
        model.train()
        return model

    return build


@pytest.fixture
def batch() -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 20), generator=torch.manual_seed(1))
    labels = ids.clone()
    labels[0, :9] = labels[1, 4:] = labels[2, ::2] = -100
    return {"input_ids": ids, "labels": labels}


def loss_and_gradients(model: Any, batch: dict[str, Tensor], **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**batch, **settings).loss
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach(), gradients


def assert_chunks_change_nothing(model: Any, batch: dict[str, Tensor], *, tolerance: float = 1e-6) -> None:
    for settings in ({}, {"num_items_in_batch": torch.tensor(91)}):
        expected, whole = loss_and_gradients(model, batch, skip_logits=False, **settings)
        loss, chunked = loss_and_gradients(model, batch, **settings)
        torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
        assert chunked.keys() == whole.keys()
        for name, gradient in whole.items():
            assert (chunked[name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.3])
@pytest.mark.parametrize("norm_head", [False, True])
def test_loss_and_gradients_are_those_of_all_logits(
    make: Make, batch: dict[str, Tensor], norm_head: bool, z_loss_weight: float
) -> None:
    model = make(norm_head=norm_head, z_loss_weight=z_loss_weight)
    with torch.no_grad():
        model.lm_head.weight.mul_(torch.rand(VOCABULARY, 1) + 0.5)
    assert_chunks_change_nothing(model, batch)


@pytest.mark.parametrize("rows", [[5], [5, 6, 7]])
def test_rows_of_zeros_have_the_gradient_of_the_smallest_norm(
    make: Make, batch: dict[str, Tensor], rows: list[int]
) -> None:
    model = make()
    with torch.no_grad():
        model.lm_head.weight[rows] = 0
    assert_chunks_change_nothing(model, batch)


def test_tied_weights_add_both_gradients(make: Make, batch: dict[str, Tensor]) -> None:
    model = make(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_chunks_change_nothing(model, batch)


@pytest.mark.parametrize("norm_head", [False, True])
def test_mixed_precision_is_as_exact_as_with_all_logits(make: Make, batch: dict[str, Tensor], norm_head: bool) -> None:
    model = make(norm_head=norm_head)
    exact, exact_gradients = loss_and_gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        whole, whole_gradients = loss_and_gradients(model, batch, skip_logits=False)
        chunked, gradients = loss_and_gradients(model, batch)
    assert (chunked - exact).abs() <= 1.5 * (whole - exact).abs() + 1e-3
    for name, expected in exact_gradients.items():
        allowed = 1.5 * (whole_gradients[name] - expected).norm() + 2e-3 * expected.norm()
        assert (gradients[name] - expected).norm() <= allowed, name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_head_gets_no_gradient(make: Make, batch: dict[str, Tensor], checkpointing: bool) -> None:
    model = make()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["W_pack"], r=4, init_lora_weights=False))
    adapted.train()
    assert_chunks_change_nothing(adapted, batch)
    assert model.lm_head.weight.grad is None


@pytest.mark.parametrize("norm_head", [False, True])
def test_an_adapted_head_learns_in_chunks(make: Make, batch: dict[str, Tensor], norm_head: bool) -> None:
    config = LoraConfig(target_modules=["W_pack", "lm_head"], r=4, init_lora_weights=False)
    model: Any = get_peft_model(make(norm_head=norm_head, z_loss_weight=0.1), config)
    assert_chunks_change_nothing(model, batch, tolerance=1e-5)
    assert any("lm_head" in name for name, weight in model.named_parameters() if weight.grad is not None)


def test_an_8_bit_head_passes_the_gradient_on_in_chunks(make: Make, batch: dict[str, Tensor]) -> None:
    model: Any = make()
    model.quantize(8, compute_dtype="float32", quantize_head=True)
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["W_pack"], r=4, init_lora_weights=False))
    assert_chunks_change_nothing(adapted, batch, tolerance=1e-5)


@pytest.mark.parametrize("head", ["plain", "frozen", "adapted"])
def test_logits_of_all_positions_never_exist(make: Make, head: str) -> None:
    ids = torch.randint(3, VOCABULARY, (4, 60))
    model: Any = make()
    if head != "plain":
        targets = ["W_pack", "lm_head"] if head == "adapted" else ["W_pack"]
        model = get_peft_model(model, LoraConfig(target_modules=targets, r=2))
    with LargestLogits() as largest:
        model(ids, labels=ids).loss.backward()
    assert largest.elements < ids.numel() * VOCABULARY / 4
    with LargestLogits() as whole:
        model(ids, labels=ids, skip_logits=False)
    assert whole.elements >= ids.numel() * VOCABULARY


@torch.no_grad()
def test_evaluation_can_skip_logits(make: Make, batch: dict[str, Tensor]) -> None:
    model = make(z_loss_weight=0.1)
    model.eval()
    batch = {name: tensor.repeat(4, 1) for name, tensor in batch.items()}
    whole = model(**batch)
    assert whole.logits.shape == (12, 20, VOCABULARY)
    with LargestLogits() as largest:
        skipped = model(**batch, skip_logits=True)
    assert skipped.logits is None
    assert largest.elements < 240 * VOCABULARY / 4
    torch.testing.assert_close(skipped.loss, whole.loss)


@pytest.mark.parametrize("skip_logits", [False, True])
def test_a_batch_without_labels_has_a_nan_loss_as_in_torch(make: Make, skip_logits: bool) -> None:
    ids = torch.randint(3, VOCABULARY, (1, 8))
    model = make()
    nothing = torch.full_like(ids, -100)
    assert model(ids, labels=nothing, skip_logits=skip_logits).loss.isnan()
    # One of several batches of a step may have no labels, and then adds nothing to the loss.
    loss, gradients = loss_and_gradients(
        model, {"input_ids": ids, "labels": nothing}, num_items_in_batch=9, skip_logits=skip_logits
    )
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("skip_logits", [False, True])
def test_labels_can_come_shifted(make: Make, batch: dict[str, Tensor], skip_logits: bool) -> None:
    model, labels = make(), batch["labels"]
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    expected = model(**batch).loss
    torch.testing.assert_close(
        model(**batch, shift_labels=shifted, skip_logits=skip_logits).loss, expected, rtol=0, atol=1e-6
    )


def test_differentiating_twice_is_an_error(make: Make, batch: dict[str, Tensor]) -> None:
    loss = make()(**batch).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        loss.backward()


@contextmanager
def one_rank(store: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("own_group", [False, True])
def test_a_head_sharded_by_fsdp_is_whole_inside_the_loss(
    make: Make, batch: dict[str, Tensor], tmp_path: Path, own_group: bool
) -> None:
    expected, gradients = loss_and_gradients(make(), batch)
    with one_rank(tmp_path / "store"):
        model: Any = make()
        mesh = init_device_mesh("cpu", (1,))
        for module in (*model.model.layers, *([model.lm_head] if own_group else []), model):
            fully_shard(module, mesh=mesh)
        loss, sharded = loss_and_gradients(model, batch)
        assert type(model.lm_head.weight.grad).__name__ == "DTensor"
        torch.testing.assert_close(loss, expected)
        for name, gradient in gradients.items():
            torch.testing.assert_close(sharded[name].full_tensor(), gradient)  # type: ignore[attr-defined]
