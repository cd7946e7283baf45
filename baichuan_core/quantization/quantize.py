"""Quantizes a checkpoint to int8, NF4 or FP4, one weight at a time."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig

from baichuan_core.checkpoint import (
    TensorReader,
    TensorWriter,
    check_tensors,
    copy_companions,
    is_quantized,
    linear_layers,
    read_config,
    require_space,
    staged_output,
    tensor_writer,
)
from baichuan_core.checkpoint.quantized_weights import BLOCK, QuantizationMethod, quantize_weight, stored_endings
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError, UnsupportedError
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

# bitsandbytes' 4-bit kernels on CPUs take 32 output features and one block of 64 input features at a time.
FOUR_BIT_MULTIPLES = {"output": 32, "input": BLOCK}
OUTLIER_THRESHOLD = 6.0
# A code and its share of the scales; then code books, states and headers of one layer.
BYTES_OF_A_NUMBER = {"int8": 1.01, "nf4": 0.5 + 4 / BLOCK, "fp4": 0.5 + 4 / BLOCK}
BYTES_OF_A_LAYER = 2**13


@dataclass(frozen=True, slots=True)
class QuantizationOptions:
    """How to quantize.

    Attributes:
        method: "int8" (LLM.int8()), "nf4" or "fp4".
        double_quantization: Keep the scales of 4-bit blocks in 8 bits; int8 has no use for it.
        compute_dtype: Dtype that 4-bit layers compute in.
    """

    method: QuantizationMethod = "nf4"
    double_quantization: bool = True
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What a quantization did.

    Attributes:
        bytes_before: Bytes of all tensors that were read.
        bytes_after: Bytes of all tensors that were written.
        relative_errors: For each quantized weight, |W - Q| / |W| in the Frobenius norm.
        mean_relative_error: Their mean.
    """

    method: QuantizationMethod
    bytes_before: int
    bytes_after: int
    relative_errors: dict[str, float]
    mean_relative_error: float


def quantize(
    checkpoint: Path | str,
    output: Path | str,
    options: QuantizationOptions,
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> QuantizationReport:
    """Quantize the five linear layers of every block; embeddings, norms and head stay as they are.

    The result loads with plain `AutoModelForCausalLM.from_pretrained`, without a flag. Memory holds one weight
    at a time.

    Args:
        checkpoint: An unquantized Baichuan checkpoint directory; never modified.
        output: Directory of the result; must not exist or be empty. It appears only when complete.
        options: The method and its settings.
        on_progress: Told after each tensor, with the relative error of a quantized one.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged, holds NaN, or `output` is taken.
        UnsupportedError: The method is unknown, the checkpoint is quantized already, or a layer has a shape
            that the 4-bit kernels cannot take.
        InsufficientSpaceError: The disk cannot hold the result.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    config = read_config(checkpoint)
    _check_supported(config, options, checkpoint)
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
        require_space(output, estimated_bytes(reader, config, options.method))
        with staged_output(output) as staging:
            config.architectures = ["BaichuanForCausalLM"]
            config.quantization_config = _quantization_config(options).to_dict()
            config.save_pretrained(staging)
            copy_companions(checkpoint, staging)
            report = _Quantizer(config, options, reader, on_progress).run(staging)
    on_progress(Progress(1.0, "quantized", {"relative_error": report.mean_relative_error}))
    return report


def estimated_bytes(reader: TensorReader, config: BaichuanConfig, method: QuantizationMethod) -> int:
    """Upper estimate of the bytes of the result: linear weights by the method, the rest as it is."""
    numbers = sum(math.prod(reader.shape(name)) for name in reader.names)
    linear = sum(math.prod(shape) for shape in linear_layers(config).values())
    kept = reader.total_bytes * (numbers - linear) // numbers
    return kept + round(linear * BYTES_OF_A_NUMBER[method]) + len(linear_layers(config)) * BYTES_OF_A_LAYER


class _Quantizer:
    """One run over all tensors of a checkpoint."""

    def __init__(
        self,
        config: BaichuanConfig,
        options: QuantizationOptions,
        reader: TensorReader,
        on_progress: ProgressCallback,
    ) -> None:
        self._linear = linear_layers(config)
        self._options = options
        self._reader = reader
        self._on_progress = on_progress
        self._bytes_read = 0
        self._errors: dict[str, float] = {}

    def run(self, staging: Path) -> QuantizationReport:
        with tensor_writer(staging, self._names_to_write()) as writer:
            for name in self._reader.names:
                tensor = self._reader.read(name)
                metrics = self._write(writer, name, tensor)
                self._bytes_read += tensor.nbytes
                fraction = min(self._bytes_read / self._reader.total_bytes, 1.0)
                self._on_progress(Progress(fraction, "quantizing", metrics))
        return QuantizationReport(
            method=self._options.method,
            bytes_before=self._bytes_read,
            bytes_after=writer.bytes_written,
            relative_errors=self._errors,
            mean_relative_error=sum(self._errors.values()) / max(len(self._errors), 1),
        )

    def _write(self, writer: TensorWriter, name: str, tensor: Tensor) -> dict[str, float]:
        if name not in self._linear:
            writer.add(name, tensor)
            return {}
        quantized = quantize_weight(tensor, self._options.method, double_quantization=self._options.double_quantization)
        layer = name.removesuffix(".weight")
        for ending, stored in quantized.tensors.items():
            writer.add(f"{layer}.{ending}", stored)
        self._errors[name] = _relative_error(tensor, quantized.restored)
        if not math.isfinite(self._errors[name]):
            raise CheckpointError(
                f"{name} in {self._reader.checkpoint} holds numbers that are NaN, infinite or too large to quantize: "
                "use the checkpoint as it was before they came in"
            )
        return {"relative_error": self._errors[name]}

    def _names_to_write(self) -> list[str]:
        endings = stored_endings(self._options.method, double_quantization=self._options.double_quantization)
        layers = [name.removesuffix(".weight") for name in self._linear]
        stored = [f"{layer}.{ending}" for layer in layers for ending in endings]
        return stored + [name for name in self._reader.names if name not in self._linear]


def _relative_error(weight: Tensor, restored: Tensor) -> float:
    exact = weight.float()
    size = torch.linalg.vector_norm(exact)
    return float(torch.linalg.vector_norm(exact - restored) / size) if size != 0 else 0.0


def _check_supported(config: BaichuanConfig, options: QuantizationOptions, checkpoint: Path) -> None:
    if options.method not in ("int8", "nf4", "fp4"):
        raise UnsupportedError(f'method {options.method!r} is not known: use "int8", "nf4" or "fp4"')
    if options.compute_dtype not in ("bfloat16", "float16", "float32"):
        raise UnsupportedError(
            f'compute_dtype {options.compute_dtype!r} is not known: use "bfloat16", "float16" or "float32"'
        )
    if is_quantized(config):
        raise UnsupportedError(f"{checkpoint} is quantized already: quantize the model it was made from")
    if options.method == "int8":
        return
    for name, shape in linear_layers(config).items():
        for (side, multiple), features in zip(FOUR_BIT_MULTIPLES.items(), shape, strict=True):
            if features % multiple:
                raise UnsupportedError(
                    f"{name} has {features} {side} features, and 4-bit layers need a multiple of {multiple}: "
                    'use the method "int8"'
                )


def _quantization_config(options: QuantizationOptions) -> BitsAndBytesConfig:
    if options.method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=OUTLIER_THRESHOLD)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=options.method,
        bnb_4bit_use_double_quant=options.double_quantization,
        bnb_4bit_compute_dtype=options.compute_dtype,
    )
