"""Compares what a checkpoint holds with what its configuration asks for."""

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError

from .layout import expected_tensors, linear_layers
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
    for name in sorted(set(expected) - quantized):
        if (found := reader.shape(name)) != expected[name]:
            raise CheckpointError(
                f"{name} in {reader.checkpoint} has the shape {list(found)}, config.json asks for "
                f"{list(expected[name])}: use a checkpoint whose config.json and weights belong together"
            )


def is_quantized(config: BaichuanConfig) -> bool:
    """Whether the configuration is that of a quantized checkpoint."""
    return getattr(config, "quantization_config", None) is not None


def _belongs_to(name: str, weights: set[str]) -> bool:
    """Whether `x.weight.absmax`, `x.SCB` and their like go with a weight `x.weight`."""
    parts = name.split(".")
    owners = (".".join(parts[:count]) for count in range(1, len(parts)))
    return any(owner in weights or f"{owner}.weight" in weights for owner in owners)
