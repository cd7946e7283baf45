"""Compares the matrices in a LoRA adapter's file with those that its settings name."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from .adapter_settings import AdapterSettings
from .errors import FileError, UnsupportedFileError

TensorRole = Literal["A", "B", "magnitude"]

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# Tools that save the model's own state dict, such as DeepSpeed's zero_to_fp32, keep peft's adapter name `.default`.
# Data-parallel wrappers add the prefix `module.`, torch.compile adds `_orig_mod.`, and peft's own prefix occurs twice
# if a model was wrapped twice.
_PREFIXES = r"^(?:module\.|base_model\.model\.|_orig_mod\.)*"
_MATRIX = re.compile(
    _PREFIXES + r"(?P<layer>.+)\."
    r"(?:lora_(?P<side>[AB])(?:\.default)?\.weight|lora_magnitude_vector(?:\.default)?(?:\.weight)?)$"
)
_SAVED_MODULE = re.compile(_PREFIXES + r"(?P<layer>.+?)(?:\.modules_to_save\.default)?\.weight$")
_BLOCK = re.compile(r".*\.[^.]*\.(\d+)\.")  # peft's pattern for a block number
_REQUIRED_PARTS = {"A", "B"}


@dataclass(slots=True)
class AdapterLayer:
    """The names and shapes of the tensors of one layer.

    Attributes:
        names: Tensor name of each part.
        shapes: Shape of each part.
    """

    names: dict[TensorRole, str] = field(default_factory=dict)
    shapes: dict[TensorRole, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdapterLayers:
    """The contents of an adapter's file.

    Attributes:
        layers: LoRA layers by name in the base, e.g. "model.layers.0.self_attn.W_pack".
        saved_modules: Tensor names of `modules_to_save`, by module.
    """

    layers: dict[str, AdapterLayer]
    saved_modules: dict[str, str]


def find_adapter_weights(adapter: Path) -> Path:
    """Return the file with the matrices of an adapter.

    Raises:
        FileError: There is no such file.
    """
    for name in WEIGHT_FILES:
        if (adapter / name).is_file():
            return adapter / name
    raise FileError(f"{adapter} has no {' or '.join(WEIGHT_FILES)}: copy the whole adapter again")


def assign_to_layers(shapes: Mapping[str, tuple[int, ...]], settings: AdapterSettings, file: Path) -> AdapterLayers:
    """Assign the tensors of an adapter's file to layers.

    Raises:
        FileError: The file has no tensors, a tensor is empty, or a layer lacks a part.
        UnsupportedFileError: A tensor is neither a LoRA matrix nor a module that the settings name.
    """
    if not shapes:
        raise FileError(f"{file} contains no tensors: save or copy the whole adapter again")
    layers: dict[str, AdapterLayer] = {}
    saved: dict[str, str] = {}
    for name, shape in shapes.items():
        if 0 in shape:
            raise FileError(
                f"{name} in {file} is empty (shape {list(shape)}): it was saved while DeepSpeed ZeRO-3 had sharded it "
                "over other processes; gather the weights when saving, or run zero_to_fp32.py"
            )
        if found := _MATRIX.match(name):
            layer = layers.setdefault(found["layer"], AdapterLayer())
            _add_part(layer, cast("TensorRole", found["side"] or "magnitude"), name, shape, file)
        elif (module := _SAVED_MODULE.match(name)) and is_saved(module["layer"], settings):
            saved[module["layer"]] = name
        else:
            raise UnsupportedFileError(
                f"{file} contains {name}, which is neither a LoRA matrix nor part of a module in modules_to_save: "
                "merge the adapter with peft"
            )
    _require_parts(layers, settings, file)
    return AdapterLayers(layers, saved)


def reject_integers(integers: Mapping[str, str], file: Path) -> None:
    """Reject integer tensors in an adapter's file, because their codes would be used as matrix values.

    Args:
        integers: Dtypes of all tensors that do not contain floats, by name.
        file: The adapter's file.

    Raises:
        FileError: The file contains an integer tensor.
    """
    if integers:
        name, dtype = next(iter(integers.items()))
        raise FileError(
            f"{name} in {file} has the dtype {dtype}, but the matrices of an adapter are floats: "
            "save the adapter again, unquantized"
        )


def select_layers(settings: AdapterSettings, linear: Iterable[str]) -> set[str]:
    """Return the linear layers of a base that the settings select, by peft's rules."""
    return {name for name in linear if _is_target(settings, name) and _is_in_chosen_block(settings, name)}


def is_saved(module: str, settings: AdapterSettings) -> bool:
    """Whether `modules_to_save` selects a module; by peft's rule, "norm" also selects `input_layernorm`."""
    return module.endswith(tuple(settings.modules_to_save or ()))


def require_selected_layers(
    present: Collection[str], selected: Collection[str], saved: Collection[str], settings: AdapterSettings, file: Path
) -> None:
    """Raise FileError if the file does not have exactly the layers and modules that the settings select.

    For a missing layer, the base would silently keep its own weights; a surplus layer would silently have no effect.
    """
    if missing := sorted(set(selected) - set(present)):
        raise FileError(
            f"{file} lacks {len(missing)} of the {len(selected)} layers that target_modules in adapter_config.json "
            f"selects, the first of them {missing[0]}: copy the whole adapter again, or correct target_modules"
        )
    if unselected := sorted(set(present) - set(selected)):
        raise FileError(
            f"{file} has matrices of {unselected[0]}, which no entry of target_modules in adapter_config.json "
            "matches or no Baichuan model has: copy both files from the same adapter"
        )
    for module in settings.modules_to_save or ():
        if not any(name.endswith(module) for name in saved):
            raise FileError(f"{file} lacks {module}, which modules_to_save names: copy the whole adapter again")


def _add_part(layer: AdapterLayer, part: TensorRole, name: str, shape: tuple[int, ...], file: Path) -> None:
    if part in layer.names:
        raise FileError(f"{file} contains both {layer.names[part]} and {name}: remove the wrong one")
    layer.names[part], layer.shapes[part] = name, shape


def _require_parts(layers: Mapping[str, AdapterLayer], settings: AdapterSettings, file: Path) -> None:
    required = _REQUIRED_PARTS | ({"magnitude"} if settings.use_dora else set())
    for name, layer in layers.items():
        if missing := sorted(required - set(layer.names)):
            part = "lora_magnitude_vector" if missing[0] == "magnitude" else f"lora_{missing[0]}"
            raise FileError(f"{file} is damaged, {name} lacks its {part}: copy the whole adapter again")
        if layer.shapes["A"][:1] != (settings.rank(name),) or layer.shapes["B"][1:] != (settings.rank(name),):
            raise FileError(
                f"{file} has matrices of shapes {list(layer.shapes['A'])} and {list(layer.shapes['B'])} for {name}, "
                f"but adapter_config.json sets its rank to {settings.rank(name)}: copy both files from the same adapter"
            )
        if unexpected := sorted(set(layer.names) - required):
            raise FileError(
                f"{file} contains {layer.names[unexpected[0]]}, but use_dora in adapter_config.json is not true: "
                "copy both files from the same adapter"
            )


def _is_named(layer: str, modules: Iterable[str]) -> bool:
    return any(layer == module or layer.endswith(f".{module}") for module in modules)


def _is_target(settings: AdapterSettings, layer: str) -> bool:
    excluded, targets = settings.exclude_modules, settings.target_modules
    if excluded and (re.fullmatch(excluded, layer) if isinstance(excluded, str) else _is_named(layer, excluded)):
        return False
    if targets == "all-linear":
        return layer != "lm_head"
    if isinstance(targets, str):
        return re.fullmatch(targets, layer) is not None
    return _is_named(layer, targets or ())


def _is_in_chosen_block(settings: AdapterSettings, layer: str) -> bool:
    chosen, patterns = settings.layers_to_transform, settings.layers_pattern
    if chosen is None or chosen == []:
        return True
    names = [patterns] if isinstance(patterns, str) else patterns or []
    candidates = [rf".*\.{name}\.(\d+)\." for name in names] or [_BLOCK.pattern]
    found = next((match for candidate in candidates if (match := re.match(candidate, layer))), None)
    return found is not None and int(found[1]) in ([chosen] if isinstance(chosen, int) else chosen)
