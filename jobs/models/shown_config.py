"""The fields of a registered model's configuration that clients see.

They are checked so that every database and every client accepts them. Other fields are neither checked nor stored.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import InvalidRequestError

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]


class ShownFields(BaseModel):
    """Fields of one file; fields that the file lacks stay unset."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @classmethod
    def from_content(cls, name: str, content: Mapping[str, Any]) -> Self:
        """Create an instance from the content of the file with this name.

        Raises:
            InvalidRequestError: A field has an impossible value; the message names the file and the field.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(str(part) for part in fault["loc"])
            message = f"{name}: {field}: {fault['msg']}; correct it, or use the published file"
            raise InvalidRequestError(message, param="path") from None


class ShownQuantization(ShownFields):
    """Settings with which bitsandbytes quantized the weights."""

    load_in_8bit: bool | None = None
    load_in_4bit: bool | None = None
    bnb_4bit_quant_type: Literal["nf4", "fp4"] | None = None

    @property
    def method(self) -> str | None:
        """The quantization method, as named in specs; bitsandbytes uses fp4 by default."""
        if self.load_in_8bit:
            return "int8"
        return (self.bnb_4bit_quant_type or "fp4") if self.load_in_4bit else None


class ShownConfig(ShownFields):
    """Fields of a `config.json`: the model's sizes and how its weights are stored."""

    hidden_size: Size | None = None
    intermediate_size: Size | None = None
    num_hidden_layers: Size | None = None
    num_attention_heads: Size | None = None
    vocab_size: Size | None = None
    max_position_embeddings: Size | None = None
    model_max_length: Size | None = None
    position_embedding: Literal["rope", "alibi"] | None = None
    norm_head: bool | None = None
    tie_word_embeddings: bool | None = None
    quantization_config: ShownQuantization | None = None

    @property
    def quantization(self) -> str | None:
        """The quantization method of the weights; None if they are not quantized."""
        return self.quantization_config.method if self.quantization_config else None

    def details(self) -> dict[str, Any]:
        """Return the fields that the file sets, except the quantization."""
        return self.model_dump(exclude_unset=True, exclude={"quantization_config"})


class ShownAdapterConfig(ShownFields):
    """Fields of an `adapter_config.json`."""

    r: Size | None = None
    lora_alpha: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | Size | None = None
