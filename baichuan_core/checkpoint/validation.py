"""Compares what a checkpoint holds with what its configuration asks for."""

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from baichuan_core.model.quantization import QuantizationMethod

from .layout import Shape, expected_tensors, linear_layers
from .quantized_weights import stored_endings
from .reader import TensorReader


def check_tensors(reader: TensorReader, config: BaichuanConfig) -> None:
    """Find missing, unknown and misshapen tensors before anything is loaded.

    Quantized checkpoints keep more tensors beside a linear weight, under names that begin with its own.

    Raises:
        CheckpointError: The message names the tensor and what to do.
    """
    expected = expected_tensors(config)
    quantized = set(linear_layers(config)) if is_quantized(config) else set()
    names = set(reader.names)
    missing = sorted(set(expected) - names)
    if missing:
        raise CheckpointError(
            f"{reader.checkpoint} lacks {len(missing)} tensors, the first of them {missing[0]}: "
            "copy or download the checkpoint again, or correct config.json"
        )
    unknown = sorted(name for name in names - set(expected) if not _belongs_to(name, quantized))
    if unknown:
        raise CheckpointError(
            f"{reader.checkpoint} holds {len(unknown)} tensors that no Baichuan model of its config.json has, "
            f"the first of them {unknown[0]}: use a checkpoint whose config.json and weights belong together"
        )
    if quantized:
        _check_scales(reader, config, linear_layers(config))
    for name in sorted(set(expected) - quantized):
        if (found := reader.shape(name)) != expected[name]:
            raise CheckpointError(
                f"{name} in {reader.checkpoint} has the shape {list(found)}, config.json asks for "
                f"{list(expected[name])}: use a checkpoint whose config.json and weights belong together"
            )


def is_quantized(config: BaichuanConfig) -> bool:
    """Whether the configuration is that of a quantized checkpoint."""
    return getattr(config, "quantization_config", None) is not None


def _check_scales(reader: TensorReader, config: BaichuanConfig, weights: dict[str, Shape]) -> None:
    """Find codes without their scales: some of them would load, and compute something else in silence."""
    settings, names = config.quantization_config, set(reader.names)
    method: QuantizationMethod = "int8" if settings.get("load_in_8bit") else settings.get("bnb_4bit_quant_type", "fp4")
    endings = stored_endings(method, double_quantization=bool(settings.get("bnb_4bit_use_double_quant")))
    for weight, shape in weights.items():
        if reader.shape(weight) == shape and reader.is_float(weight):
            continue  # left as it was, by settings of who made the checkpoint
        layer = weight.removesuffix(".weight")
        lacking = [name for ending in endings if (name := f"{layer}.{ending}") not in names]
        if lacking and not lacking[0].endswith("weight_format"):  # which says nothing any more
            raise CheckpointError(
                f"{reader.checkpoint} lacks {lacking[0]}, a part of {weight}: "
                "copy or download the checkpoint again, whole"
            )


def _belongs_to(name: str, weights: set[str]) -> bool:
    """Whether `x.weight.absmax`, `x.SCB` and their like go with a weight `x.weight`."""
    parts = name.split(".")
    owners = (".".join(parts[:count]) for count in range(1, len(parts)))
    return any(owner in weights or f"{owner}.weight" in weights for owner in owners)
