"""Training: gradient checkpointing, the padding row, the z loss and gradient accumulation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan_core import BaichuanForCausalLM

Load = Callable[..., BaichuanForCausalLM]
Golden = dict[str, Tensor]


def gradients(model: BaichuanForCausalLM, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(ids, labels=labels).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("settings", [None, {"use_reentrant": True}, {"use_reentrant": False}], ids=str)
def test_gradient_checkpointing_does_not_change_gradients(
    family: Path, load: Load, golden: Golden, settings: dict[str, bool] | None
) -> None:
    model = load(family).train()
    plain = gradients(model, golden["full.input_ids"], golden["train.labels"])
    model.activation_checkpointing_enable(settings)
    assert model.is_activation_checkpointing
    checkpointed = gradients(model, golden["full.input_ids"], golden["train.labels"])
    assert plain.keys() == checkpointed.keys() == dict(model.named_parameters()).keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_padding_row_gets_no_gradient(family: Path, load: Load, golden: Golden) -> None:
    model = load(family).train()
    ids = golden["full.input_ids"].clone()
    ids[:, :3] = 0
    gradient = gradients(model, ids, ids)["model.embed_tokens.weight"]
    assert gradient[0].abs().max() == 0
    assert gradient[int(ids[0, 5])].abs().max() > 0


def test_training_honours_the_padding_mask(family: Path, load: Load, golden: Golden) -> None:
    model = load(family).train()
    ids, mask = golden["pad_left.input_ids"], golden["pad_left.attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    # With left padding the first real token would be predicted from padding, without padding not at all.
    labels[1, 7] = -100
    unpadded = model(ids[1:, 7:], labels=labels[1:, 7:]).loss
    padded = model(ids[1:], attention_mask=mask[1:], labels=labels[1:]).loss
    torch.testing.assert_close(padded, unpadded, rtol=0, atol=1e-5)


def test_z_loss_is_the_mean_squared_largest_logit(family: Path, load: Load, golden: Golden) -> None:
    ids, labels = golden["full.input_ids"], golden["train.labels"]
    plain = load(family).train()(ids, labels=labels, skip_logits=False)
    weighted = load(family, z_loss_weight=0.01).train()(ids, labels=labels)
    largest = plain.logits[:, :-1].amax(dim=-1)
    torch.testing.assert_close(weighted.loss, plain.loss + 0.01 * largest.square().mean())


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.01])
def test_accumulated_loss_is_the_loss_of_the_whole_batch(
    family: Path, load: Load, golden: Golden, z_loss_weight: float
) -> None:
    model = load(family, z_loss_weight=z_loss_weight).train()
    ids = golden["full.input_ids"]
    labels = ids.clone()
    labels[0, 10:15] = labels[1, 3:8] = -100
    whole = model(ids, labels=labels).loss
    count = int((labels[:, 1:] != -100).sum())
    rows = [model(ids[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=count).loss for row in range(2)]
    torch.testing.assert_close(sum(rows), whole)
