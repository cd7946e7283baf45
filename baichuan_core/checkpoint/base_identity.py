"""Which base checkpoint an adapter was made for: a record of its shape and of a few of its numbers."""

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
_VALUES = 8
# bfloat16 keeps eight bits, so a base in another dtype may differ by 0.4% of each value.
_RELATIVE_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Shape of a base model and a few of its numbers.

    Attributes:
        name: Name of the base's directory, for people; not compared.
        fingerprint: First values of the final norm and of the embedding of token 1, which neither LoRA nor
            quantization of the blocks changes.
        rounding: How far an 8-bit embedding may have moved those values; 0 for any other.
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
    def of(cls, checkpoint: Path) -> Self:
        """Identity of a checkpoint directory, quantized or not."""
        config = read_config(checkpoint)
        with TensorReader(checkpoint) as reader:
            row, step = reader.read(EMBEDDING)[1, :_VALUES].float(), 0.0
            if config.quantize_head:
                step = float(reader.read(EMBEDDING_SCALE)[1])
                row *= step
            values = _fingerprint(reader.read(FINAL_NORM), row)
        return cls(name=checkpoint.absolute().name, fingerprint=values, rounding=step / 2, **_shape(config))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Identity that an adapter directory records."""
        try:
            content = json.loads(file.read_bytes())
            content.setdefault("rounding", 0.0)  # adapters of version 0.1 have none
            values = {field.name: content[field.name] for field in fields(cls)}
            return cls(**values | {"fingerprint": tuple(float(value) for value in values["fingerprint"])})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged ({error!r}): copy the adapter again") from error

    def describe(self) -> str:
        """What kind of base this is, in words."""
        kind = {"rope": "RoPE", "alibi": "ALiBi"}.get(self.position_embedding, self.position_embedding)
        return (
            f"{self.name} ({kind}, hidden size {self.hidden_size}, {self.num_hidden_layers} layers, "
            f"{self.num_attention_heads} heads, vocabulary {self.vocab_size})"
        )

    def same_shape(self, other: "BaseIdentity") -> bool:
        """Whether an adapter of the one base fits into the other."""
        free = {"name", "fingerprint", "rounding"}
        return all(
            getattr(self, field.name) == getattr(other, field.name) for field in fields(self) if field.name not in free
        )

    def same_numbers(self, other: "BaseIdentity") -> bool:
        """Whether the fingerprints agree up to the rounding of another dtype or of 8 bits."""
        mine, theirs = torch.tensor(self.fingerprint), torch.tensor(other.fingerprint)
        tolerance = 1e-6 + self.rounding + other.rounding
        return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=_RELATIVE_TOLERANCE, atol=tolerance)


def write_adapter_identity(adapter: Path, base: Path) -> None:
    """Record in an adapter directory which base checkpoint it was trained on."""
    text = json.dumps(asdict(BaseIdentity.of(base)), indent=2) + "\n"
    (adapter / IDENTITY_FILE).write_text(text, encoding="utf-8")


def _shape(config: BaichuanConfig) -> dict[str, Any]:
    names = {field.name for field in fields(BaseIdentity)} - {"name", "fingerprint", "rounding"}
    return {name: getattr(config, name) for name in names}


def _fingerprint(norm: Tensor, row: Tensor) -> tuple[float, ...]:
    values = torch.cat((norm[:_VALUES].float(), row))
    return tuple(round(value, 6) for value in values.tolist())
