"""Identifies the base checkpoint of an adapter by its shape and a few of its weights."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from checkpoint_files.layout import EMBEDDING, EMBEDDING_SCALE, FINAL_NORM

from .companions import read_config
from .reader import TensorReader

IDENTITY_FILE = "baichuan_base.json"
_VALUES_PER_TENSOR = 8
# bfloat16 keeps eight significant bits, so each value may differ by 0.4% if the base was converted to another dtype.
_RELATIVE_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Shape and a few weights of a base model.

    Attributes:
        name: Name of the base model's directory, shown in messages; not compared.
        fingerprint: First values of the final norm and of the embedding of token 1, which neither LoRA nor
            quantization of the blocks changes.
        rounding: Largest rounding error of these values if the embedding is stored in 8 bits, otherwise 0.
    """

    name: str
    position_embedding: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    fingerprint: tuple[float, ...]
    rounding: float = 0.0

    @classmethod
    def from_checkpoint(cls, checkpoint: Path) -> Self:
        """Return the identity of a checkpoint directory, quantized or not."""
        config = read_config(checkpoint)
        with TensorReader(checkpoint) as reader:
            row, scale = reader.read(EMBEDDING)[1, :_VALUES_PER_TENSOR].float(), 0.0
            if config.quantize_head:
                scale = float(reader.read(EMBEDDING_SCALE)[1])
                row *= scale
            values = _compute_fingerprint(reader.read(FINAL_NORM), row)
        return cls(name=checkpoint.absolute().name, fingerprint=values, rounding=scale / 2, **_get_shape_fields(config))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the identity recorded in an adapter directory.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            content = json.loads(file.read_bytes())
            content.setdefault("rounding", 0.0)  # missing from adapters written by version 0.1
            values = {field.name: content[field.name] for field in fields(cls)}
            return cls(**values | {"fingerprint": tuple(float(value) for value in values["fingerprint"])})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged ({error!r}): copy the adapter again") from error

    def describe(self) -> str:
        """Return a description for messages, e.g. "base (RoPE, hidden size 4096, …)"."""
        kind = {"rope": "RoPE", "alibi": "ALiBi"}.get(self.position_embedding, self.position_embedding)
        return (
            f"{self.name} ({kind}, hidden size {self.hidden_size}, {self.num_hidden_layers} layers, "
            f"{self.num_attention_heads} heads, vocabulary {self.vocab_size})"
        )

    def has_same_shape(self, other: "BaseIdentity") -> bool:
        """Return whether adapter matrices for one base model also fit the other."""
        ignored = {"name", "fingerprint", "rounding"}
        compared = (field.name for field in fields(self) if field.name not in ignored)
        return all(getattr(self, name) == getattr(other, name) for name in compared)

    def has_same_weights(self, other: "BaseIdentity") -> bool:
        """Return whether the fingerprints agree, allowing for rounding to another dtype or to 8 bits."""
        mine, theirs = torch.tensor(self.fingerprint), torch.tensor(other.fingerprint)
        tolerance = 1e-6 + self.rounding + other.rounding
        return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=_RELATIVE_TOLERANCE, atol=tolerance)


def write_base_identity(adapter: Path, base: Path) -> None:
    """Record in an adapter's directory which base checkpoint the adapter was trained on."""
    text = json.dumps(asdict(BaseIdentity.from_checkpoint(base)), indent=2) + "\n"
    (adapter / IDENTITY_FILE).write_text(text, encoding="utf-8")


def _get_shape_fields(config: BaichuanConfig) -> dict[str, Any]:
    names = {field.name for field in fields(BaseIdentity)} - {"name", "fingerprint", "rounding"}
    return {name: getattr(config, name) for name in names}


def _compute_fingerprint(norm: Tensor, row: Tensor) -> tuple[float, ...]:
    values = torch.cat((norm[:_VALUES_PER_TENSOR].float(), row))
    return tuple(round(value, 6) for value in values.tolist())
