"""Shapes are read from configurations by the engine's rules, and errors say what to change."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core import BaichuanConfig
from footprint import PRESETS, ModelShape, Precision, ShapeError, read_config

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LENGTHS = st.none() | st.integers(1, 10_000)


@given(
    longest=LENGTHS,
    published=LENGTHS,
    position_embedding=st.sampled_from([None, "rope", "alibi"]),
    norm_head=st.sampled_from([None, True, False]),
    vocab_size=st.sampled_from([64, 64_000, 125_696]),
    tie_word_embeddings=st.booleans(),
)
def test_the_family_is_inferred_like_in_the_engine(
    longest: int | None,
    published: int | None,
    position_embedding: str | None,
    norm_head: bool | None,
    vocab_size: int,
    tie_word_embeddings: bool,
) -> None:
    content = {
        **SIZES,
        "vocab_size": vocab_size,
        "max_position_embeddings": longest,
        "model_max_length": published,
        "position_embedding": position_embedding,
        "norm_head": norm_head,
        "tie_word_embeddings": tie_word_embeddings,
    }
    given_fields = {name: value for name, value in content.items() if value is not None}
    shape, config = ModelShape.from_config(given_fields), BaichuanConfig(**given_fields)
    assert shape.position_embedding == config.position_embedding
    assert shape.norm_head == (config.norm_head is not False)
    assert shape.context_length == config.model_max_length
    assert shape.tied_head == config.tie_word_embeddings


@pytest.mark.parametrize("family", ["baichuan1-7b", "baichuan1-13b", "baichuan2-7b", "baichuan2-13b"])
def test_published_layouts_are_read(family: str) -> None:
    config = read_config(GOLDEN / family)
    assert ModelShape.from_config(config).position_embedding == PRESETS[family.replace("1-", "-")].position_embedding
    assert read_config(GOLDEN / family / "config.json") == config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Precision("bfloat16", None, double_quantization=False)),
        ({"torch_dtype": "float32"}, Precision("float32", None, double_quantization=False)),
        ({"dtype": "float16", "quantization_config": {"load_in_8bit": True}}, Precision("float16", "int8", False)),
        (
            {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
            Precision("bfloat16", "nf4", double_quantization=False),
        ),
        (
            {"quantization_config": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}},
            Precision("bfloat16", "fp4"),
        ),
    ],
)
def test_the_precision_is_read_from_a_checkpoint(settings: dict[str, Any], expected: Precision) -> None:
    assert Precision.from_config(settings) == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 33}, "multiple of the number of heads"),
        ({"num_hidden_layers": 0}, "layers is 0: use a positive integer"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"position_embedding": "sine"}, 'use "rope" or "alibi"'),
    ],
)
def test_impossible_sizes_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        ModelShape.from_config({**SIZES, **changes})


def test_missing_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"config\.json has no intermediate_size"):
        ModelShape.from_config({name: size for name, size in SIZES.items() if name != "intermediate_size"})
    with pytest.raises(ShapeError, match=r"config\.json is missing"):
        read_config(tmp_path)
    for content, says in (("{", "not valid JSON"), (json.dumps([]), "must contain a JSON object")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ShapeError, match=says):
            read_config(tmp_path)
    with pytest.raises(ShapeError, match="dtype is 'float64'"):
        Precision.from_config({"dtype": "float64"})
    with pytest.raises(ShapeError, match="quantization is 'int3'"):
        Precision.from_config({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "int3"}})
