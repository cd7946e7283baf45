"""Quantizes a checkpoint to int8, NF4 or FP4, one weight at a time."""

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor
from transformers import BitsAndBytesConfig

from baichuan_core.checkpoint import (
    EMBEDDING,
    EMBEDDING_SCALE,
    HEAD,
    HEAD_SCALE,
    TensorReader,
    TensorWriter,
    check_tensors,
    copy_companion_files,
    is_quantized,
    linear_layers,
    read_config,
    require_space,
    staged_output,
    tensor_writer,
)
from baichuan_core.checkpoint.quantized_weights import (
    QuantizedWeight,
    quantize_embedding_or_head,
    quantize_weight,
)
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError, UnsupportedError
from baichuan_core.free_memory import choose_device
from baichuan_core.model.float_chunks import iterate_float_chunks
from baichuan_core.model.four_bits import BLOCK_SIZE
from baichuan_core.model.quantization import (
    OUTLIER_THRESHOLD,
    ComputeDtype,
    QuantizationMethod,
    make_quantization_settings,
    require_four_bit_shapes,
)
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress, scale_progress
from checkpoint_files import stored_endings

from .calibration import (
    CalibratedWeights,
    Calibration,
    FourBitFormat,
    calibrate,
    find_outlier_threshold,
    read_calibration_rows,
)

# Bytes per weight: its code plus its share of the scales, rounded up.
BYTES_PER_WEIGHT = {"int8": 1.01, "nf4": 0.5 + 4 / BLOCK_SIZE, "fp4": 0.5 + 4 / BLOCK_SIZE}
OVERHEAD_BYTES_PER_LAYER = 2**13  # conservative estimate for code books, quantization state and header entries
EMBEDDING_AND_HEAD = (EMBEDDING, HEAD)
PROGRESS_AFTER_CALIBRATION = 0.95  # progress when calibration is done; the rest is for writing the checkpoint


@dataclass(frozen=True, slots=True)
class QuantizationOptions:
    """Options of `quantize`.

    Attributes:
        method: "int8" (LLM.int8()), "nf4" or "fp4".
        double_quantization: Store the scales of 4-bit blocks in 8 bits; ignored for int8.
        compute_dtype: Dtype that 4-bit layers compute in.
        quantize_head: Also quantize the embedding and output head, to 8 bits with one scale per row.
        calibration: Text on which to choose 4-bit codes or, for int8, the threshold above which inputs are not
            quantized. The result has the same size as without calibration.
    """

    method: QuantizationMethod = "nf4"
    double_quantization: bool = True
    compute_dtype: ComputeDtype = "bfloat16"
    quantize_head: bool = False
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """Result of a quantization.

    Attributes:
        method: The quantization method.
        bytes_before: Total size of the tensors read.
        bytes_after: Total size of the tensors written.
        relative_errors: |W - Q| / |W| in the Frobenius norm, for each quantized weight.
        mean_relative_error: Mean of `relative_errors`.
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
    device: str | None = None,
    checkpoints: Path | str | None = None,
    resume_from: Path | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> QuantizationReport:
    """Quantize the five linear layers of every block and, optionally, the embedding and output head.

    The result loads with `AutoModelForCausalLM.from_pretrained` without extra arguments. Only one weight is in memory
    at a time; calibration needs one block and the hidden states of the calibration text. A calibration that is killed
    and resumed after its last finished block produces the same bytes as an uninterrupted one.

    Args:
        checkpoint: An unquantized Baichuan checkpoint directory; it is not modified.
        output: Directory of the result; must be empty or not exist. It appears only when complete.
        options: The method and its settings.
        device: Device to calibrate on; by default the first GPU, or the CPU if there is no GPU.
        checkpoints: Folder to save calibrated blocks in, used by this run only; by default nothing is saved.
        resume_from: The `checkpoints` folder of an earlier run.
        on_progress: Called after each tensor, with its relative error if it was quantized, and after each calibrated
            block.

    Raises:
        CheckpointError: The checkpoint is incomplete, damaged or contains NaN; `output` is not empty; or `resume_from`
            belongs to a different calibration.
        UnsupportedError: The method is unknown, the checkpoint is already quantized, or a layer has a shape that the
            4-bit kernels do not support.
        DatasetError: The calibration text is too short, cannot be read, or has token ids that the model does not have.
        TokenizerError: The checkpoint has no tokenizer for the calibration text.
        InsufficientSpaceError: The disk does not have enough space for the result.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    config = read_config(checkpoint)
    _build_bitsandbytes_settings(options)
    _check_supported(config, options, checkpoint)
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
        rows = None if options.calibration is None else read_calibration_rows(checkpoint, config, options.calibration)
        require_space(output, estimate_output_bytes(reader, config, options))
        with staged_output(output) as staging, TemporaryDirectory(dir=staging) as temporary:
            calibrated, threshold = None, OUTLIER_THRESHOLD
            if rows is not None and options.method == "int8":
                threshold = find_outlier_threshold(
                    reader,
                    config,
                    rows,
                    device=choose_device(device),
                    on_progress=scale_progress(on_progress, 0.0, PROGRESS_AFTER_CALIBRATION),
                )
            elif rows is not None:
                calibrated = calibrate(
                    reader,
                    config,
                    rows,
                    FourBitFormat(options.method, options.double_quantization),
                    device=choose_device(device),
                    checkpoints=Path(checkpoints or temporary),
                    resume_from=None if resume_from is None else Path(resume_from),
                    on_progress=scale_progress(on_progress, 0.0, PROGRESS_AFTER_CALIBRATION),
                )
            if rows is not None:
                on_progress = scale_progress(on_progress, PROGRESS_AFTER_CALIBRATION, 1.0)
            settings = _build_bitsandbytes_settings(options, threshold)
            config.architectures = ["BaichuanForCausalLM"]
            config.quantization_config = settings.to_dict()
            config.quantize_head = options.quantize_head
            config.save_pretrained(staging)
            copy_companion_files(checkpoint, staging)
            report = _Quantizer(config, options, reader, calibrated, on_progress).run(staging)
    on_progress(Progress(1.0, "quantized", {"relative_error": report.mean_relative_error}))
    return report


def estimate_output_bytes(reader: TensorReader, config: BaichuanConfig, options: QuantizationOptions) -> int:
    """Return a conservative estimate of the output size in bytes; tensors that are not quantized keep their size."""
    sizes = {name: math.prod(reader.shape(name)) for name in reader.names}
    linear = sum(math.prod(shape) for shape in linear_layers(config).values())
    embedding_and_head = sum(sizes[name] for name in EMBEDDING_AND_HEAD) if options.quantize_head else 0
    total = sum(sizes.values())
    kept = reader.total_bytes * (total - linear - embedding_and_head) // total
    quantized = linear * BYTES_PER_WEIGHT[options.method] + embedding_and_head * BYTES_PER_WEIGHT["int8"]
    return kept + round(quantized) + (len(linear_layers(config)) + len(EMBEDDING_AND_HEAD)) * OVERHEAD_BYTES_PER_LAYER


class _Quantizer:
    """One pass that quantizes and writes all tensors of a checkpoint."""

    def __init__(
        self,
        config: BaichuanConfig,
        options: QuantizationOptions,
        reader: TensorReader,
        calibrated: CalibratedWeights | None,
        on_progress: ProgressCallback,
    ) -> None:
        self._linear = linear_layers(config)
        self._options = options
        self._reader = reader
        self._calibrated = calibrated
        self._on_progress = on_progress
        self._bytes_read = 0
        self._errors: dict[str, float] = {}

    def run(self, staging: Path) -> QuantizationReport:
        with tensor_writer(staging, self._list_names_to_write()) as writer:
            for name in self._reader.names:
                tensor = self._reader.read(name)
                metrics = self._write_tensor(writer, name, tensor)
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

    def _write_tensor(self, writer: TensorWriter, name: str, tensor: Tensor) -> dict[str, float]:
        quantized = self._quantize_tensor(name, tensor)
        if quantized is None:
            writer.add(name, tensor)
            return {}
        layer = name.removesuffix(".weight")
        for ending, stored in quantized.tensors.items():
            writer.add(f"{layer}.{ending}", stored)
        self._errors[name] = compute_relative_error(tensor, quantized.dequantized)
        if not math.isfinite(self._errors[name]):
            raise CheckpointError(
                f"{name} in {self._reader.checkpoint} has values that are NaN, infinite or too large to quantize: "
                "use an earlier, undamaged checkpoint"
            )
        return {"relative_error": self._errors[name]}

    def _quantize_tensor(self, name: str, tensor: Tensor) -> QuantizedWeight | None:
        """Quantize a weight; return None if it is stored unchanged."""
        if name in self._linear:
            if self._calibrated is not None:
                return self._calibrated.load_weight(name)
            double_quantization = self._options.double_quantization
            return quantize_weight(tensor, self._options.method, double_quantization=double_quantization)
        if self._options.quantize_head and name in EMBEDDING_AND_HEAD:
            return quantize_embedding_or_head(tensor)
        return None

    def _list_names_to_write(self) -> list[str]:
        endings = stored_endings(self._options.method, double_quantization=self._options.double_quantization)
        layers = [name.removesuffix(".weight") for name in self._linear]
        stored = [f"{layer}.{ending}" for layer in layers for ending in endings]
        scales = [HEAD_SCALE, EMBEDDING_SCALE] if self._options.quantize_head else []
        return stored + scales + [name for name in self._reader.names if name not in self._linear]


def compute_relative_error(weight: Tensor, dequantized: Tensor) -> float:
    """Return |W - Q| / |W| in the Frobenius norm, or |Q| if W is zero."""
    size = error = 0.0
    for (_, exact), (_, quantized) in zip(iterate_float_chunks(weight), iterate_float_chunks(dequantized), strict=True):
        size += float(np.square(exact).sum())
        error += float(np.square(exact - quantized).sum())
    return math.sqrt(error / size) if size else math.sqrt(error)


def _build_bitsandbytes_settings(
    options: QuantizationOptions, threshold: float = OUTLIER_THRESHOLD
) -> BitsAndBytesConfig:
    return make_quantization_settings(
        options.method,
        double_quantization=options.double_quantization,
        compute_dtype=options.compute_dtype,
        threshold=threshold,
    )


def _check_supported(config: BaichuanConfig, options: QuantizationOptions, checkpoint: Path) -> None:
    if is_quantized(config):
        raise UnsupportedError(f"{checkpoint} is already quantized: quantize the original checkpoint instead")
    if options.quantize_head and config.tie_word_embeddings:
        raise UnsupportedError(
            f"{checkpoint} uses its embedding as its output head (tie_word_embeddings): do not set quantize_head"
        )
    if options.method != "int8":
        require_four_bit_shapes(linear_layers(config))
