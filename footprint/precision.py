"""Precision of a model's weights, and their size in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from .shape import ModelShape, ShapeError

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["int8", "nf4", "fp4"]

DTYPE_BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
SCALE_BYTES = 4  # float32

# bitsandbytes' 4-bit format (Dettmers et al. 2023, arXiv 2305.14314): one float32 absmax per 64 weights. Double
# quantization stores each absmax in one byte, with one float32 scale per 256 absmax values.
WEIGHTS_PER_BLOCK = 64
SCALES_PER_NESTED_BLOCK = 256
CODEBOOK_BYTES = 16 * 4
NESTED_CODEBOOK_BYTES = 256 * 4 + 4  # the codebook and the mean absmax


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision of the weights in memory.

    Attributes:
        dtype: Dtype of unquantized weights and of hidden states.
        quantization: Quantization of the blocks' linear layers, or None.
        double_quantization: Whether the scales of 4-bit blocks are stored in 8 bits; ignored for int8.
        quantize_head: Whether embedding and output head are stored in 8 bits, with one scale per row.
    """

    dtype: Dtype = "bfloat16"
    quantization: Quantization | None = None
    double_quantization: bool = True
    quantize_head: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise ShapeError(f"dtype is {self.dtype!r}: use one of {', '.join(get_args(Dtype))}")
        if self.quantization not in (None, *get_args(Quantization)):
            raise ShapeError(f"quantization is {self.quantization!r}: use one of {', '.join(get_args(Quantization))}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the precision in which a checkpoint with this `config.json` is loaded by default."""
        settings = config.get("quantization_config") or {}
        four_bit = settings.get("bnb_4bit_quant_type", "fp4") if settings.get("load_in_4bit") else None
        return cls(
            dtype=config.get("dtype") or config.get("torch_dtype") or "bfloat16",
            quantization="int8" if settings.get("load_in_8bit") else four_bit,
            double_quantization=bool(settings.get("bnb_4bit_use_double_quant", False)),
            quantize_head=bool(config.get("quantize_head", False)),
        )

    @property
    def element_bytes(self) -> int:
        """Bytes per element of the hidden states."""
        return DTYPE_BYTES[self.dtype]

    @property
    def label(self) -> str:
        """Name in tables and messages, such as "nf4, 8-bit head"."""
        name = self.quantization or self.dtype
        return f"{name}, 8-bit head" if self.quantize_head else name

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of one linear layer [rows, columns] of a block, including scales and codebooks."""
        elements = rows * columns
        if self.quantization is None:
            return elements * self.element_bytes
        if self.quantization == "int8":
            return elements + rows * SCALE_BYTES
        blocks = -(-elements // WEIGHTS_PER_BLOCK)
        scales = blocks * SCALE_BYTES
        if self.double_quantization:
            scales = blocks + -(-blocks // SCALES_PER_NESTED_BLOCK) * SCALE_BYTES + NESTED_CODEBOOK_BYTES
        return -(-elements // 2) + scales + CODEBOOK_BYTES

    def weight_bytes(self, shape: ModelShape) -> int:
        """Return the bytes of all weights of a loaded model."""
        blocks = shape.layers * sum(self.matrix_bytes(*matrix) for matrix in shape.layer_matrices)
        return blocks + self.embedding_and_head_bytes(shape) + shape.norm_parameter_count * self.element_bytes

    def embedding_and_head_bytes(self, shape: ModelShape) -> int:
        """Return the bytes of the embedding and the output head."""
        if not self.quantize_head:
            return shape.embedding_and_head_parameter_count * self.element_bytes
        return (
            shape.embedding_and_head_parameter_count
            + shape.embedding_and_head_parameter_count // shape.hidden_size * SCALE_BYTES
        )

    def dequantized_layer_bytes(self, shape: ModelShape) -> int:
        """Return the bytes of the largest 4-bit layer, dequantized to multiply several rows; 0 if none is 4-bit."""
        if self.quantization not in ("nf4", "fp4"):
            return 0
        return max(rows * columns for rows, columns in shape.layer_matrices) * self.element_bytes
