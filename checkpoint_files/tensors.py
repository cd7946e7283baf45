"""Compares the tensors of a checkpoint with those that its configuration requires."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from .errors import FileError, UnsupportedFileError
from .layout import EMBEDDING, HEAD, Shape, Sizes, expected_tensors, linear_layers

# Name endings of the tensors that GPTQ and AWQ store instead of a weight.
GPTQ_ENDINGS = (".qweight", ".qzeros")
# Prefixes of tensor names that wrappers add, with their origin and the remedy.
WRAPPERS = {
    "module.": "DeepSpeed and data parallel training: save the wrapped model (model.module.save_pretrained)",
    "_orig_mod.": "torch.compile: save the model that was compiled (model._orig_mod.save_pretrained)",
    "base_model.model.": "peft: merge the adapter before saving (model.merge_and_unload().save_pretrained)",
}
STATE_PREFIX = "weight.quant_state.bitsandbytes__"


class TensorHeaders(Protocol):
    """Access to the headers of a checkpoint's tensors."""

    @property
    def checkpoint(self) -> Path:
        """The checkpoint directory."""

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def is_float(self, name: str) -> bool:
        """Whether a tensor contains floats."""

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor, as its file spells it."""

    def file(self, name: str) -> Path:
        """Return the path of the file that contains a tensor."""


def check_tensors(tensors: TensorHeaders, sizes: Sizes, quantization: Mapping[str, Any] | None) -> None:
    """Check for missing, unknown and misshapen tensors before anything is loaded.

    In quantized checkpoints, a linear weight has additional tensors whose names begin with its own.

    Raises:
        FileError: There is such a tensor; the message names the tensor and the remedy.
    """
    expected, linear, names = expected_tensors(sizes), linear_layers(sizes), set(tensors.names)
    reject_gptq(tensors)
    quantized = set(linear) if quantization else set()
    if missing := sorted(set(expected) - names):
        _reject_prefix(tensors, expected)
        raise FileError(
            f"{tensors.checkpoint} lacks {len(missing)} tensors, the first of them {missing[0]}: "
            "copy or download the checkpoint again, or correct config.json"
        )
    known = set(expected) | ({HEAD} if sizes.tie_word_embeddings else set())
    if unknown := sorted(name for name in names - known if not _belongs_to(name, quantized)):
        raise FileError(
            f"{tensors.checkpoint} has {len(unknown)} tensors that no Baichuan model with its config.json has, "
            f"the first of them {unknown[0]}: use a checkpoint whose config.json and weights belong together"
        )
    if quantization:
        _check_scales(tensors, quantization, linear)
    for name in sorted(set(expected) - quantized):
        _check_shape(tensors, name, expected[name])
    rows_in_8_bits = {EMBEDDING, HEAD} if sizes.quantize_head else set()
    for name in sorted(set(expected) - quantized - rows_in_8_bits):
        _require_floats(tensors, name)


def _reject_prefix(tensors: TensorHeaders, expected: Mapping[str, Shape]) -> None:
    """Raise FileError if all names have a prefix that training tools add."""
    for prefix, origin in WRAPPERS.items():
        if all(f"{prefix}{name}" in tensors.names for name in expected):
            raise FileError(
                f'the names of the tensors in {tensors.checkpoint} begin with "{prefix}", which is added by '
                f"{origin}, or remove it from the names"
            )


def reject_gptq(tensors: TensorHeaders) -> None:
    """Raise UnsupportedFileError if the tensors are those of GPTQ or AWQ."""
    if found := next((name for name in tensors.names if name.endswith(GPTQ_ENDINGS)), None):
        raise UnsupportedFileError(
            f"{tensors.checkpoint} was quantized by GPTQ or AWQ (it contains {found}): "
            "use an unquantized or bitsandbytes checkpoint"
        )


def holds_plain_weights(tensors: TensorHeaders, sizes: Sizes) -> bool:
    """Return whether all linear weights are stored as floats, so that any `quantization_config` is a leftover.

    Fine-tuning scripts that load in 4 bits and save merged weights leave the settings in `config.json`.
    """
    names = set(tensors.names)
    return all(
        name in names and tensors.is_float(name) and tensors.shape(name) == shape
        for name, shape in linear_layers(sizes).items()
    )


def _check_shape(tensors: TensorHeaders, name: str, shape: Shape) -> None:
    if (found := tensors.shape(name)) != shape:
        raise FileError(
            f"{name} in {tensors.checkpoint} has the shape {list(found)}, but config.json requires "
            f"{list(shape)}: use a checkpoint whose config.json and weights belong together"
        )


def _require_floats(tensors: TensorHeaders, name: str) -> None:
    """Reject integers that config.json does not declare as quantized, because they would be used as weights."""
    if not tensors.is_float(name):
        raise FileError(
            f"{name} in {tensors.file(name)} has the dtype {tensors.dtype(name)}, but config.json does not declare it "
            "as quantized: copy the config.json that belongs to these weights, or use an unquantized checkpoint"
        )


def _check_scales(tensors: TensorHeaders, settings: Mapping[str, Any], weights: Mapping[str, Shape]) -> None:
    """Check for codes without scales, because some of them would load and silently produce wrong results."""
    names = set(tensors.names)
    endings = stored_endings(
        "int8" if settings.get("load_in_8bit") else str(settings.get("bnb_4bit_quant_type", "fp4")),
        double_quantization=bool(settings.get("bnb_4bit_use_double_quant")),
    )
    for weight, shape in weights.items():
        if tensors.shape(weight) == shape and tensors.is_float(weight):
            continue  # this layer was not quantized
        layer = weight.removesuffix(".weight")
        lacking = [name for ending in endings if (name := f"{layer}.{ending}") not in names]
        if lacking and not lacking[0].endswith("weight_format"):  # `weight_format` is unused, so it may be missing
            raise FileError(
                f"{tensors.checkpoint} lacks {lacking[0]}, a part of {weight}: "
                "copy or download the whole checkpoint again"
            )


def stored_endings(method: str, *, double_quantization: bool) -> list[str]:
    """Return the endings of the names of all tensors that bitsandbytes stores per layer, e.g. "weight.absmax"."""
    if method == "int8":
        return ["weight", "SCB", "weight_format"]
    nested = ["weight.nested_absmax", "weight.nested_quant_map"] if double_quantization else []
    return ["weight", "weight.absmax", "weight.quant_map", *nested, STATE_PREFIX + method]


def _belongs_to(name: str, weights: set[str]) -> bool:
    """Whether a tensor such as `x.weight.absmax` or `x.SCB` belongs to one of the weights, here `x.weight`."""
    parts = name.split(".")
    owners = (".".join(parts[:count]) for count in range(1, len(parts)))
    return any(owner in weights or f"{owner}.weight" in weights for owner in owners)
