"""The fields of a `config.json` that determine the tensors of its model, read without torch or transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import FileError
from .family import PositionEmbedding, infer_position_embedding, require_norm_head

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(slots=True)
class ModelFields:
    """Fields of a configuration that determine the tensors of its model, and its family."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    position_embedding: PositionEmbedding
    norm_head: bool
    tie_word_embeddings: bool
    quantize_head: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the fields of a cleaned configuration.

        Raises:
            FileError: A size is missing or impossible, or the family is unclear.
        """
        for name in SIZES:
            if type(size := config.get(name)) is not int or size < 1:
                raise FileError(f"{name} is {size!r}: set it to a positive integer")
        if config["hidden_size"] % config["num_attention_heads"]:
            raise FileError(
                f"hidden_size {config['hidden_size']} is not a multiple of num_attention_heads "
                f"{config['num_attention_heads']}: correct one of them"
            )
        positions = infer_position_embedding(config)
        if positions not in ("rope", "alibi"):
            raise FileError(f'position_embedding is {positions!r}: use "rope" or "alibi"')
        return cls(
            **{name: config[name] for name in SIZES},
            position_embedding=positions,
            norm_head=require_norm_head(config),
            tie_word_embeddings=config.get("tie_word_embeddings") is True,
            quantize_head=config.get("quantize_head") is True,
        )
