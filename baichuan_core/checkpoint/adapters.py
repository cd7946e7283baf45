"""Which base a LoRA adapter was made for, and whether a checkpoint is that base."""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import AdapterMismatchError, CheckpointError
from baichuan_core.model import BaichuanForCausalLM

from .companions import read_config
from .layout import EMBEDDING, EMBEDDING_SCALE, FINAL_NORM, HEAD, linear_layers
from .reader import TensorReader

IDENTITY_FILE = "baichuan_base.json"
_LORA_MATRIX = re.compile(r"\.lora_[AB]\.")
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
            content = json.loads(file.read_text(encoding="utf-8"))
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


def check_adapter(adapter: Path, base: Path) -> None:
    """Make sure that a LoRA adapter belongs to a base checkpoint.

    An adapter without our record (made by the published script) is judged by its tensors alone.

    Raises:
        CheckpointError: The directory is no adapter.
        AdapterMismatchError: It was made for another base; the message says for which.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{adapter / 'adapter_config.json'} is missing: name the directory that fine-tuning wrote"
        )
    given = BaseIdentity.of(base)
    if (adapter / IDENTITY_FILE).is_file():
        _compare(BaseIdentity.read(adapter / IDENTITY_FILE), given, adapter)
    _check_layers(adapter, read_config(base), given)


def _compare(wanted: BaseIdentity, given: BaseIdentity, adapter: Path) -> None:
    if not wanted.same_shape(given):
        raise AdapterMismatchError(
            f"the adapter {adapter} was made for {wanted.describe()}, not for {given.describe()}: load it on that base"
        )
    if not wanted.same_numbers(given):
        raise AdapterMismatchError(
            f"the adapter {adapter} was made for {wanted.describe()}; {given.name} has the same shape and other "
            "weights: load it on that base"
        )


def _check_layers(adapter: Path, config: BaichuanConfig, given: BaseIdentity) -> None:
    """Look for the layer of every LoRA matrix; transformers would leave out what it does not find."""
    layers = linear_layers(config) | {HEAD: (config.vocab_size, config.hidden_size)}
    for name, shape in _lora_shapes(adapter).items():
        layer, side = name.removeprefix("base_model.model.").split(".lora_")
        features = layers.get(f"{layer}.weight")
        if features is None:
            raise AdapterMismatchError(
                f"the adapter {adapter} changes {layer}, which {given.describe()} does not have: "
                "load it on its own base"
            )
        if (side[0] == "A" and shape[1] != features[1]) or (side[0] == "B" and shape[0] != features[0]):
            raise AdapterMismatchError(
                f"the adapter {adapter} has {name} of shape {list(shape)} for a layer of shape {list(features)} in "
                f"{given.describe()}: load it on its own base"
            )


def _lora_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the matrices A [rank, in] and B [out, rank]."""
    with TensorReader(adapter, adapter_weights(adapter)) as reader:
        return {name: reader.shape(name) for name in reader.names if _LORA_MATRIX.search(name)}


def adapter_weights(adapter: Path) -> Path:
    """The file with the matrices of an adapter.

    Raises:
        CheckpointError: There is none.
    """
    for file in (adapter / "adapter_model.safetensors", adapter / "adapter_model.bin"):
        if file.is_file():
            return file
    raise CheckpointError(f"{adapter} holds no adapter_model.safetensors: copy the adapter again, whole")


def _shape(config: BaichuanConfig) -> dict[str, Any]:
    names = {field.name for field in fields(BaseIdentity)} - {"name", "fingerprint", "rounding"}
    return {name: getattr(config, name) for name in names}


def _fingerprint(norm: Tensor, row: Tensor) -> tuple[float, ...]:
    values = torch.cat((norm[:_VALUES].float(), row))
    return tuple(round(value, 6) for value in values.tolist())


def load_adapter(model: BaichuanForCausalLM, adapter: Path) -> None:
    """Put the layers of a checked adapter into its base model.

    Raises:
        CheckpointError: A file is damaged or does not fill the layers that `adapter_config.json` names.
    """
    try:
        model.load_adapter(str(adapter.absolute()))
    except (ValueError, KeyError, RuntimeError, OSError, TypeError) as error:
        raise CheckpointError(f"the adapter {adapter} cannot be loaded ({error}): copy it again, whole") from error
    filled = sum(_LORA_MATRIX.search(name) is not None for name, _ in model.named_parameters())
    if filled != (held := len(_lora_shapes(adapter))):
        raise CheckpointError(
            f"the adapter {adapter} holds {held} matrices and its adapter_config.json asks for {filled}: "
            "copy it again, whole"
        )
