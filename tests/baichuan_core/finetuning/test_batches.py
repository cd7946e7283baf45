"""Packed rows are full, and give the same loss and gradients as one example per row."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan_core import BaichuanForCausalLM
from baichuan_core.finetuning.batches import Collator, pack_best_fit, pack_rows
from baichuan_core.finetuning.example_store import EncodedExample

Load = Callable[..., BaichuanForCausalLM]


def make_examples(lengths: list[int]) -> list[EncodedExample]:
    source = random.Random(0)  # noqa: S311
    examples = []
    for length in lengths:
        ids = [source.randrange(3, 500) for _ in range(length)]
        answer = length // 2
        examples.append(EncodedExample(ids, [2] + [-100] * (answer - 1) + ids[answer:]))
    return examples


def gradients(model: Any, batch: dict[str, Tensor], **settings: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**batch, **settings).loss
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [[9, 21, 4, 13, 12, 7], [20, 3], [31]], ids=str)
def test_packed_and_unpacked_have_equal_loss_and_gradients(
    family: Path, load: Load, attention: str, lengths: list[int]
) -> None:
    model = load(family, attn_implementation=attention)
    model.train()
    examples = make_examples(lengths)
    packed, plain = Collator(0, packed_length=40)(examples), Collator(0)(examples)
    assert len(packed["input_ids"]) < len(examples) or len(examples) == 1
    loss, packed_gradients = gradients(model, packed)
    expected, plain_gradients = gradients(model, plain)
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in plain_gradients.items():
        assert (packed_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("packed_length", [None, 40])
def test_the_loss_equals_that_of_single_examples(family: Path, load: Load, packed_length: int | None) -> None:
    """The reference is a loop over single examples, without padding and without the Trainer."""
    model = load(family)
    model.train()
    examples = make_examples([9, 21, 4, 13])
    labelled = sum(label != -100 for example in examples for label in example.labels[1:])
    total = 0.0
    for example in examples:
        logits = model(torch.tensor([example.input_ids])).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(example.labels[1:]), reduction="sum").item()
    assert model(**Collator(0, packed_length)(examples)).loss.item() == pytest.approx(total / labelled, rel=1e-5)


def test_examples_of_a_packed_row_do_not_see_each_other() -> None:
    first, second = EncodedExample([5, 6, 7], [2, -100, 7]), EncodedExample([8, 9], [2, 9])
    batch = {name: tensor.tolist() for name, tensor in Collator(0, packed_length=6)([second, first]).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 8, 9]],
        "attention_mask": [[1, 1, 1, 2, 2]],
        "labels": [[-100, -100, 7, -100, 9]],
        "position_ids": [[0, 1, 2, 0, 1]],
    }


def test_best_fit_fills_the_fullest_row_that_has_room() -> None:
    assert pack_best_fit([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 3, 2, 5]]
    assert pack_best_fit([7, 5, 5, 3], 10) == [[0, 3], [1, 2]]
    assert pack_best_fit([12, 3], 10) == [[0], [1]]


def test_rows_have_little_padding_and_every_example_once() -> None:
    source = random.Random(1)  # noqa: S311
    for _ in range(50):
        lengths = [source.randint(3, 128) for _ in range(source.randint(1, 24))]
        rows = pack_rows(lengths, 128)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        longest = max(sum(lengths[index] for index in row) for row in rows)
        assert longest <= 128
        assert len(rows) * longest <= len(lengths) * max(lengths)
    many = [source.randint(8, 64) for _ in range(200)]
    rows = pack_rows(many, 128)
    assert sum(many) > 0.97 * len(rows) * max(sum(many[index] for index in row) for row in rows)
