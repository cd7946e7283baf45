"""The tiny checkpoint has the properties of the published ones of its family."""

from pathlib import Path
from typing import get_args

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import baichuan_core  # noqa: F401 - registers the classes
from baichuan_core.finetuning import read_conversations
from examples.tiny_checkpoint import CONVERSATIONS, Family, make_tiny_checkpoint


@pytest.mark.parametrize("family", get_args(Family))
def test_each_family_loads_with_its_positions_and_head(tmp_path: Path, family: Family) -> None:
    directory = make_tiny_checkpoint(tmp_path / family, family=family)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.position_embedding == ("rope" if family.endswith("7b") else "alibi")
    assert model.config.norm_head == family.startswith("baichuan2")
    assert len(AutoTokenizer.from_pretrained(directory)) == model.config.vocab_size


def test_turn_ids_are_the_reserved_pieces_of_baichuan2(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_checkpoint(tmp_path))
    assert tokenizer.convert_ids_to_tokens([195, 196]) == ["<reserved_106>", "<reserved_107>"]
    for conversation in read_conversations(CONVERSATIONS):
        for _, text in conversation.turns:
            assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    first, again, other = (
        make_tiny_checkpoint(tmp_path / str(number), seed=seed) for number, seed in enumerate((1, 1, 2))
    )
    files = sorted(path.name for path in first.iterdir())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
