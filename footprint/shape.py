"""Model sizes that determine memory use, read from `config.json` according to the rules of the Baichuan families."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from checkpoint_files import (
    BAICHUAN2_VOCABULARY_SIZE,
    FileError,
    PositionEmbedding,
    clean_fields,
    infer_norm_head,
    infer_position_embedding,
    read_object,
)

DEFAULT_CONTEXT_LENGTH = 4096


class ShapeError(ValueError):
    """A configuration does not describe the sizes of a Baichuan model; the message states what to change."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Baichuan model.

    Attributes:
        hidden_size: Width of the hidden states.
        intermediate_size: Width of the feed-forward layers.
        layers: Number of blocks.
        heads: Number of attention heads, each with its own keys and values.
        vocab_size: Number of rows of the embedding and of the output head.
        context_length: Context length that the model was trained for.
        position_embedding: "rope" or "alibi".
        norm_head: Whether the output head is normalized (NormHead).
        tied_head: Whether the embedding is also the output head.
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
                raise ShapeError(f"{name} is {size!r}: use a positive integer")
        if self.position_embedding not in ("rope", "alibi"):
            raise ShapeError(f'position_embedding is {self.position_embedding!r}: use "rope" or "alibi"')
        if self.hidden_size % self.heads:
            raise ShapeError(
                f"hidden_size {self.hidden_size} is not a multiple of the number of heads, {self.heads}: "
                "change one of them"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the sizes from a `config.json`, by the same rules as `baichuan_core.BaichuanConfig`.

        Raises:
            ShapeError: A size is missing or impossible.
        """
        try:
            fields = clean_fields(config)
            positions, norm_head = infer_position_embedding(fields), infer_norm_head(fields)
        except FileError as fault:
            raise ShapeError(str(fault)) from fault
        longest, published_length = fields.get("max_position_embeddings"), fields.get("model_max_length")
        return cls(
            hidden_size=_read_size(fields, "hidden_size"),
            intermediate_size=_read_size(fields, "intermediate_size"),
            layers=_read_size(fields, "num_hidden_layers"),
            heads=_read_size(fields, "num_attention_heads"),
            vocab_size=_read_size(fields, "vocab_size"),
            context_length=published_length or longest or DEFAULT_CONTEXT_LENGTH,
            position_embedding=positions,
            norm_head=norm_head is not False,  # if unknown, assume the kind that needs more memory
            tied_head=bool(fields.get("tie_word_embeddings", False)),
        )

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """Shapes [out, in] of a block's linear layers: W_pack, o_proj, gate_proj, up_proj and down_proj."""
        hidden, intermediate = self.hidden_size, self.intermediate_size
        return (
            (3 * hidden, hidden),
            (hidden, hidden),
            (intermediate, hidden),
            (intermediate, hidden),
            (hidden, intermediate),
        )

    @property
    def linear_parameter_count(self) -> int:
        """Number of parameters in the linear layers of all blocks, the layers that quantization replaces."""
        return self.layers * sum(rows * columns for rows, columns in self.layer_matrices)

    @property
    def embedding_and_head_parameter_count(self) -> int:
        """Number of parameters in the embedding and the output head."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)

    @property
    def head_parameter_count(self) -> int:
        """Number of parameters in the output head."""
        return self.vocab_size * self.hidden_size

    @property
    def norm_parameter_count(self) -> int:
        """Number of parameters in the norms: two per block and a final one."""
        return (2 * self.layers + 1) * self.hidden_size

    @property
    def parameter_count(self) -> int:
        """Number of parameters in the whole model."""
        return self.linear_parameter_count + self.embedding_and_head_parameter_count + self.norm_parameter_count


def _read_size(config: Mapping[str, Any], name: str) -> int:
    if name not in config:
        raise ShapeError(f"config.json has no {name}: use the config.json of the published checkpoint")
    size: int = config[name]
    return size


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`, given as a file or as its checkpoint directory.

    Raises:
        ShapeError: The file cannot be read or is not a JSON object.
    """
    try:
        return read_object(path / "config.json" if path.is_dir() else path)
    except FileError as fault:
        raise ShapeError(str(fault)) from fault


_SHAPE_7B = ModelShape(hidden_size=4096, intermediate_size=11_008, layers=32, heads=32, vocab_size=64_000)
_SHAPE_13B = ModelShape(5120, 13_696, layers=40, heads=40, vocab_size=64_000, position_embedding="alibi")

PRESETS: Mapping[str, ModelShape] = {
    "baichuan-7b": _SHAPE_7B,
    "baichuan-13b": _SHAPE_13B,
    "baichuan2-7b": replace(_SHAPE_7B, vocab_size=BAICHUAN2_VOCABULARY_SIZE, norm_head=True),
    "baichuan2-13b": replace(_SHAPE_13B, vocab_size=BAICHUAN2_VOCABULARY_SIZE, norm_head=True),
}
