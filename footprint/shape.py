"""What memory depends on in a model: its sizes, told from `config.json` by the rules of the Baichuan families."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

DEFAULT_CONTEXT_LENGTH = 4096
BAICHUAN2_VOCABULARY_SIZE = 125_696

PositionEmbedding = Literal["rope", "alibi"]


class ShapeError(ValueError):
    """A configuration does not tell the sizes of a Baichuan model; the message names what to change."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Baichuan model.

    Attributes:
        hidden_size: Width of the hidden states.
        intermediate_size: Width of the feed-forward layers.
        layers: Number of blocks.
        heads: Number of attention heads, each with keys and values of its own.
        vocab_size: Rows of the embedding and of the head.
        context_length: Tokens that the model was made for.
        position_embedding: "rope" or "alibi".
        norm_head: Whether the head is a normalised one.
        tied_head: Whether the embedding serves as head.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    vocab_size: int
    context_length: int = DEFAULT_CONTEXT_LENGTH
    position_embedding: PositionEmbedding = "rope"
    norm_head: bool = False
    tied_head: bool = False

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "layers", "heads", "vocab_size", "context_length")
        for name in sizes:
            if type(size := getattr(self, name)) is not int or size < 1:
                raise ShapeError(f"{name} is {size!r}: give a whole number above 0")
        if self.position_embedding not in ("rope", "alibi"):
            raise ShapeError(f'position_embedding is {self.position_embedding!r}: use "rope" or "alibi"')
        if self.hidden_size % self.heads:
            raise ShapeError(f"hidden_size {self.hidden_size} is not a multiple of the number of heads, {self.heads}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The shape that a `config.json` describes, by the rules of `baichuan_core.BaichuanConfig`.

        Raises:
            ShapeError: A size is missing or impossible.
        """
        longest, published_length = config.get("max_position_embeddings"), config.get("model_max_length")
        alibi = longest is None and published_length is not None
        vocab_size = _size(config, "vocab_size")
        norm_head = config.get("norm_head")
        return cls(
            hidden_size=_size(config, "hidden_size"),
            intermediate_size=_size(config, "intermediate_size"),
            layers=_size(config, "num_hidden_layers"),
            heads=_size(config, "num_attention_heads"),
            vocab_size=vocab_size,
            context_length=published_length or longest or DEFAULT_CONTEXT_LENGTH,
            position_embedding=config.get("position_embedding") or ("alibi" if alibi else "rope"),
            norm_head=vocab_size == BAICHUAN2_VOCABULARY_SIZE if norm_head is None else bool(norm_head),
            tied_head=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """Shapes [out, in] of the five linear layers of one block, in order."""
        hidden, intermediate = self.hidden_size, self.intermediate_size
        return (
            (3 * hidden, hidden),
            (hidden, hidden),
            (intermediate, hidden),
            (intermediate, hidden),
            (hidden, intermediate),
        )

    @property
    def linear_parameters(self) -> int:
        """Numbers in the linear layers of all blocks: what quantization replaces."""
        return self.layers * sum(rows * columns for rows, columns in self.layer_matrices)

    @property
    def table_parameters(self) -> int:
        """Numbers in the embedding and the head."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)

    @property
    def head_parameters(self) -> int:
        """Numbers in the head."""
        return self.vocab_size * self.hidden_size

    @property
    def norm_parameters(self) -> int:
        """Numbers in the norms: two a block and a last one."""
        return (2 * self.layers + 1) * self.hidden_size

    @property
    def parameters(self) -> int:
        """Numbers in the whole model."""
        return self.linear_parameters + self.table_parameters + self.norm_parameters


def _size(config: Mapping[str, Any], name: str) -> int:
    if name not in config:
        raise ShapeError(f"config.json has no {name}: use the config.json of the published checkpoint")
    size: int = config[name]
    return size


def read_config(path: Path) -> dict[str, Any]:
    """The content of a `config.json`, given as a file or as the checkpoint directory that holds it.

    Raises:
        ShapeError: It cannot be read, or holds no JSON object.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShapeError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ShapeError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ShapeError(f"{file} must hold a JSON object")
    return content


_7B = Shape(hidden_size=4096, intermediate_size=11_008, layers=32, heads=32, vocab_size=64_000)
_13B = Shape(5120, 13_696, layers=40, heads=40, vocab_size=64_000, position_embedding="alibi")

PRESETS: Mapping[str, Shape] = {
    "baichuan-7b": _7B,
    "baichuan-13b": _13B,
    "baichuan2-7b": replace(_7B, vocab_size=BAICHUAN2_VOCABULARY_SIZE, norm_head=True),
    "baichuan2-13b": replace(_13B, vocab_size=BAICHUAN2_VOCABULARY_SIZE, norm_head=True),
}
