"""Details of a model that are known without loading it, with one class per kind of model."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import InvalidRequestError


class _Details(BaseModel):
    """Base class for all details; strict, because the values come from JSON files that users wrote."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: int = Field(description="Total size of all files")


class StoredPrecision(BaseModel):
    """The dtype and quantization in which the weights are stored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dtype: str = Field(description="Dtype of the unquantized weights and of the hidden states")
    quantization: str | None = Field(description="How the linear layers of the blocks are quantized: int8, nf4 or fp4")
    double_quantization: bool = Field(description="Whether the scales of 4-bit blocks are quantized too")
    quantize_head: bool = Field(description="Whether the embedding and the output head are stored in 8 bits")


class _ShapedDetails(_Details):
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    model_max_length: int | None = None
    position_embedding: str | None = None
    norm_head: bool | None = None
    tie_word_embeddings: bool | None = None


class CheckpointDetails(_ShapedDetails):
    """Details of a checkpoint; fields that its config.json lacks are null."""

    quantization: str | None = Field(None, description="int8, nf4 or fp4; null if the weights are not quantized")
    precision: StoredPrecision | None = None


class GgufDetails(_ShapedDetails):
    """Details of a GGUF file; fields that its config.json lacks are null."""


class AdapterDetails(_Details):
    """Details of a LoRA adapter; fields that its adapter_config.json lacks are null."""

    lora_rank: int | None = None
    lora_alpha: int | float | None = None


class LlamaDetails(_Details):
    """Details of a checkpoint that was converted to Llama."""


ModelDetails = CheckpointDetails | GgufDetails | AdapterDetails | LlamaDetails
DETAILS_CLASSES: dict[str, type[ModelDetails]] = {
    "checkpoint": CheckpointDetails,
    "gguf": GgufDetails,
    "adapter": AdapterDetails,
    "llama": LlamaDetails,
}


def check_details(kind: str, found: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Check the details of a model of this kind; return them in their stored form, without unknown fields.

    Raises:
        InvalidRequestError: A value in `file`, which the details were read from, has the wrong type.
    """
    try:
        return DETAILS_CLASSES[kind].model_validate(found).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = f"{file} has {name} {first['input']!r}: {first['msg']}; correct it to match the published file"
        raise InvalidRequestError(message, param="path") from None


def read_details(kind: str, stored: Mapping[str, Any]) -> ModelDetails | Mapping[str, Any]:
    """Return stored details as an instance of their class, or unchanged if another version stored different fields."""
    try:
        return DETAILS_CLASSES[kind].model_validate(stored)
    except (KeyError, ValidationError):
        return stored
