"""The matrices of a LoRA adapter: which its settings promise, and which its file holds."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from .adapter_settings import AdapterSettings
from .errors import FileError, UnsupportedFileError

Part = Literal["A", "B", "magnitude"]

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# `.default` is peft's name for the adapter: left in by tools that save the state dict of the model itself, such as
# DeepSpeed's zero_to_fp32. `module.` is put before names by data parallel wrappers, `_orig_mod.` by torch.compile, and
# peft's own prefix is repeated if a model was wrapped twice.
_PREFIXES = r"^(?:module\.|base_model\.model\.|_orig_mod\.)*"
_MATRIX = re.compile(
    _PREFIXES + r"(?P<layer>.+)\."
    r"(?:lora_(?P<side>[AB])(?:\.default)?\.weight|lora_magnitude_vector(?:\.default)?(?:\.weight)?)$"
)
_SAVED_MODULE = re.compile(_PREFIXES + r"(?P<layer>.+?)(?:\.modules_to_save\.default)?\.weight$")
_BLOCK = re.compile(r".*\.[^.]*\.(\d+)\.")  # as peft finds the number of a block
_WHOLE_LAYER = {"A", "B"}


@dataclass(slots=True)
class AdapterLayer:
    """Where in the file the parts of one layer are.

    Attributes:
        names: Name of the tensor of each part.
        shapes: Its shape.
    """

    names: dict[Part, str] = field(default_factory=dict)
    shapes: dict[Part, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdapterLayers:
    """Contents of an adapter's file.

    Attributes:
        layers: By the name of the layer in the base, e.g. "model.layers.0.self_attn.W_pack".
        saved_modules: Tensors of `modules_to_save`, by the name of the module.
    """

    layers: dict[str, AdapterLayer]
    saved_modules: dict[str, str]


def find_adapter_weights(adapter: Path) -> Path:
    """Return the file with the matrices of an adapter.

    Raises:
        FileError: There is none.
    """
    for name in WEIGHT_FILES:
        if (adapter / name).is_file():
            return adapter / name
    raise FileError(f"{adapter} holds no {' or '.join(WEIGHT_FILES)}: copy the adapter again, whole")


def sort_tensors(shapes: Mapping[str, tuple[int, ...]], settings: AdapterSettings, file: Path) -> AdapterLayers:
    """Assign the tensors of an adapter's file to layers.

    Raises:
        FileError: There are none, one is empty, or a layer lacks a part.
        UnsupportedFileError: A tensor is neither a LoRA matrix nor a module that the settings name.
    """
    if not shapes:
        raise FileError(f"{file} holds no tensors: save or copy the adapter again, whole")
    layers: dict[str, AdapterLayer] = {}
    saved: dict[str, str] = {}
    for name, shape in shapes.items():
        if 0 in shape:
            raise FileError(
                f"{name} in {file} has the shape {list(shape)}, so it is empty: it was saved while DeepSpeed ZeRO-3 "
                "had its parts on other processes; gather the weights on save, or run zero_to_fp32.py"
            )
        if found := _MATRIX.match(name):
            layer = layers.setdefault(found["layer"], AdapterLayer())
            _add_part(layer, cast("Part", found["side"] or "magnitude"), name, shape, file)
        elif (module := _SAVED_MODULE.match(name)) and is_saved(module["layer"], settings):
            saved[module["layer"]] = name
        else:
            raise UnsupportedFileError(
                f"{file} holds {name}, which is no LoRA matrix and of no module in modules_to_save: merge it with peft"
            )
    _require_parts(layers, settings, file)
    return AdapterLayers(layers, saved)


def refuse_integers(integers: Mapping[str, str], file: Path) -> None:
    """Reject an adapter's file with integers, which would be used as the values of its matrices.

    Args:
        integers: Dtype of each tensor that holds no floats, by name.
        file: The file.

    Raises:
        FileError: There is such a tensor.
    """
    if integers:
        name, dtype = next(iter(integers.items()))
        raise FileError(
            f"{name} in {file} has the dtype {dtype}, but the matrices of an adapter are floats: "
            "save the adapter again, unquantized"
        )


def promised_layers(settings: AdapterSettings, linear: Iterable[str]) -> set[str]:
    """Return which of the linear layers of a base the settings name, by peft's rules."""
    return {name for name in linear if _is_target(settings, name) and _is_in_chosen_block(settings, name)}


def is_saved(module: str, settings: AdapterSettings) -> bool:
    """Whether `modules_to_save` names a module; by peft's rule "norm" names `input_layernorm` too."""
    return module.endswith(tuple(settings.modules_to_save or ()))


def require_promised(
    present: Collection[str], promised: Collection[str], saved: Collection[str], settings: AdapterSettings, file: Path
) -> None:
    """Raise FileError if the file has other layers and modules than the settings promise.

    A missing one would silently stay that of the base, a surplus one would silently have no effect.
    """
    if missing := sorted(set(promised) - set(present)):
        raise FileError(
            f"{file} lacks {len(missing)} of the {len(promised)} layers that target_modules in adapter_config.json "
            f"names, the first of them {missing[0]}: copy the adapter again, whole, or correct target_modules"
        )
    if unnamed := sorted(set(present) - set(promised)):
        raise FileError(
            f"{file} holds matrices of {unnamed[0]}, which target_modules in adapter_config.json does not name or no "
            "Baichuan model has: copy both files from the same adapter"
        )
    for module in settings.modules_to_save or ():
        if not any(name.endswith(module) for name in saved):
            raise FileError(f"{file} lacks {module}, which modules_to_save names: copy the adapter again, whole")


def _add_part(layer: AdapterLayer, part: Part, name: str, shape: tuple[int, ...], file: Path) -> None:
    if part in layer.names:
        raise FileError(f"{file} holds both {layer.names[part]} and {name}: remove the one that is not meant")
    layer.names[part], layer.shapes[part] = name, shape


def _require_parts(layers: Mapping[str, AdapterLayer], settings: AdapterSettings, file: Path) -> None:
    wanted = _WHOLE_LAYER | ({"magnitude"} if settings.use_dora else set())
    for name, layer in layers.items():
        if lacking := sorted(wanted - set(layer.names)):
            what = "lora_magnitude_vector" if lacking[0] == "magnitude" else f"lora_{lacking[0]}"
            raise FileError(f"{file} is damaged, {name} lacks its {what}: copy the adapter again, whole")
        if layer.shapes["A"][:1] != (settings.rank(name),) or layer.shapes["B"][1:] != (settings.rank(name),):
            raise FileError(
                f"{file} has matrices of shapes {list(layer.shapes['A'])} and {list(layer.shapes['B'])} for {name}, "
                f"adapter_config.json gives it rank {settings.rank(name)}: copy both files from the same adapter"
            )
        if unexpected := sorted(set(layer.names) - wanted):
            raise FileError(
                f"{file} holds {layer.names[unexpected[0]]}, but use_dora in adapter_config.json is not true: "
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
    of_pattern = [patterns] if isinstance(patterns, str) else patterns or []
    candidates = [rf".*\.{pattern}\.(\d+)\." for pattern in of_pattern] or [_BLOCK.pattern]
    found = next((match for candidate in candidates if (match := re.match(candidate, layer))), None)
    return found is not None and int(found[1]) in ([chosen] if isinstance(chosen, int) else chosen)
