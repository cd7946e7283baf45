"""Reads LoRA adapters, checks that they fit their base model, and adds them to a loaded model as peft would."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import AdapterMismatchError, CheckpointError, UnsupportedError
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.model.quantization import prepare_dora_layers
from checkpoint_files import (
    AdapterLayers,
    AdapterSettings,
    assign_to_layers,
    find_adapter_weights,
    is_saved,
    reject_integers,
    require_selected_layers,
    select_layers,
)
from checkpoint_files.adapter_layers import TensorRole
from checkpoint_files.layout import HEAD, expected_tensors, linear_layers

from .base_identity import IDENTITY_FILE, BaseIdentity
from .companions import read_config
from .file_errors import translate_file_errors
from .reader import TensorReader
from .validation import is_quantized

ADAPTER_NAME = "default"
# Suffix of the tensor name in peft, for each part of an adapter layer.
PEFT_SUFFIXES: Mapping[TensorRole, str] = {
    "A": "lora_A.weight",
    "B": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter that has been checked against its base model.

    Attributes:
        directory: Directory of the adapter.
        settings: Contents of `adapter_config.json`.
        layers: Tensors by layer and part: "A" [rank, in], "B" [out, rank] and, for DoRA, "magnitude" [out].
        saved_modules: Weights that replace those of the base model, by module.
    """

    directory: Path
    settings: AdapterSettings
    layers: Mapping[str, Mapping[TensorRole, Tensor]]
    saved_modules: Mapping[str, Tensor]

    @classmethod
    def read(cls, directory: Path, base: Path) -> Self:
        """Read an adapter and check that it was made for this base checkpoint.

        Raises:
            CheckpointError: The directory does not contain an adapter, or a file or tensor of the adapter is missing.
            AdapterMismatchError: The adapter was made for another base model, which the message names.
            UnsupportedError: The adapter is not a LoRA adapter, or its effect cannot be reproduced on this base model.
        """
        with translate_file_errors():
            settings = AdapterSettings.read(directory)
            file = find_adapter_weights(directory)
        with TensorReader(directory, file) as reader, translate_file_errors():
            found = assign_to_layers({name: reader.shape(name) for name in reader.names}, settings, file)
            reject_integers({name: reader.dtype(name) for name in reader.names if not reader.is_float(name)}, file)
            _check_base(directory, settings, found, base, file)
            replaced = {module: reader.shape(name) for module, name in found.saved_modules.items()}
            _check_saved_modules(directory, settings, replaced, base)
            # Copy the tensors, because the file is closed before they are used.
            layers = {
                layer: {part: reader.read(name).clone() for part, name in parts.names.items()}
                for layer, parts in found.layers.items()
            }
            saved = {module: reader.read(name).clone() for module, name in found.saved_modules.items()}
        return cls(directory, settings, layers, saved)

    def inject_into(self, model: BaichuanForCausalLM) -> None:
        """Add the adapter's layers to its base model, as peft does.

        Raises:
            CheckpointError: The tensors do not match the layers that the settings name.
        """
        peft = import_module("peft")
        try:
            peft.inject_adapter_in_model(make_peft_config(self.settings), model, ADAPTER_NAME)
            # Like PeftModel.from_pretrained, cast half-precision matrices to float32, whatever the base model's dtype.
            import_module("peft.tuners.tuners_utils").cast_adapter_dtype(model, ADAPTER_NAME)
            result = peft.set_peft_model_state_dict(model, self._build_state_dict(), ADAPTER_NAME)
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"the adapter {self.directory} cannot be loaded ({error}): copy all of its files again"
            ) from error
        missing = [name for name in result.missing_keys if ".lora_" in name or ".modules_to_save." in name]
        if missing or result.unexpected_keys:
            name = (*missing, *result.unexpected_keys)[0]
            raise CheckpointError(
                f"the weights of the adapter {self.directory} do not match its settings at {name}: "
                "copy all of its files again"
            )
        prepare_dora_layers(model)
        model._hf_peft_config_loaded = True  # as in transformers' load_adapter; saving and merging check this flag
        model.eval()
        for name, parameter in model.named_parameters():
            if ".lora_" in name or ".modules_to_save." in name:
                parameter.requires_grad_(False)

    def _build_state_dict(self) -> dict[str, Tensor]:
        matrices = {
            f"{layer}.{PEFT_SUFFIXES[part]}": tensor
            for layer, parts in self.layers.items()
            for part, tensor in parts.items()
        }
        return matrices | {f"{module}.weight": tensor for module, tensor in self.saved_modules.items()}


def check_adapter(adapter: Path, base: Path) -> None:
    """Check that a LoRA adapter was made for a base checkpoint; raise the same errors as `LoraAdapter.read`."""
    LoraAdapter.read(adapter, base)


def make_peft_config(settings: AdapterSettings, **changes: Any) -> Any:
    """Return peft's configuration for an adapter."""
    fields = {**asdict(settings), "inference_mode": True, **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about training do not apply to a trained adapter
        return import_module("peft").LoraConfig(**{name: value for name, value in fields.items() if value is not None})


def compute_initial_matrices(settings: AdapterSettings, layer: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the initial A and B of an adapter whose initialization subtracted their product from the base weight.

    Args:
        settings: Settings of an adapter whose initialization changed the base weights.
        layer: Name of the layer.
        weight: Weight of the layer in the base model, float32 [out, in].
    """
    peft = import_module("peft")
    model = nn.Sequential()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    model.add_module("layer", linear)
    single_layer = {"r": settings.rank(layer), "target_modules": ["layer"], "rank_pattern": {}, "alpha_pattern": {}}
    # The initialization divides by the layer's factor alpha / rank, so choose alpha to reproduce that factor.
    factor = {"use_rslora": False, "lora_alpha": settings.scale(layer) * settings.rank(layer), "use_dora": False}
    unrestricted = {"layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
    config = make_peft_config(settings, **single_layer, **factor, **unrestricted, modules_to_save=None)
    adapted: Any = peft.inject_adapter_in_model(config, model, ADAPTER_NAME).get_submodule("layer")
    a, b = adapted.lora_A[ADAPTER_NAME].weight, adapted.lora_B[ADAPTER_NAME].weight
    return a.detach(), b.detach()


def _check_base(directory: Path, settings: AdapterSettings, found: AdapterLayers, base: Path, file: Path) -> None:
    config = read_config(base)
    identity = BaseIdentity.from_checkpoint(base)
    if (directory / IDENTITY_FILE).is_file():
        _require_same_base(BaseIdentity.read(directory / IDENTITY_FILE), identity, directory)
    _check_shapes(directory, found, config, identity)
    linear = [name.removesuffix(".weight") for name in (*linear_layers(config), HEAD)]
    require_selected_layers(found.layers, select_layers(settings, linear), found.saved_modules, settings, file)
    if settings.changes_base and is_quantized(config):
        raise UnsupportedError(
            f'the adapter {directory} was initialized with "{settings.init_lora_weights}", which changed the weights '
            f"of its base before training, but {base} is quantized: use the unquantized base"
        )


def _check_saved_modules(
    directory: Path, settings: AdapterSettings, saved: Mapping[str, tuple[int, ...]], base: Path
) -> None:
    """Check that each module in `modules_to_save` is stored and has the shape of the base module it replaces."""
    config = read_config(base)
    tensors = {HEAD: (config.vocab_size, config.hidden_size), **expected_tensors(config)}
    shapes = {name.removesuffix(".weight"): shape for name, shape in tensors.items()}
    for module, shape in saved.items():
        if shapes.get(module) != shape:
            raise AdapterMismatchError(
                f"the adapter {directory} replaces {module} with a weight of shape {list(shape)} (modules_to_save), "
                f"but this module has shape {list(shapes.get(module, ()))} in "
                f"{BaseIdentity.from_checkpoint(base).describe()}: "
                "load the adapter onto the base model it was trained on"
            )
    if missing := [module for module in shapes if is_saved(module, settings) and module not in saved]:
        raise CheckpointError(
            f"the adapter {directory} lacks {missing[0]}, which modules_to_save lists: copy all of its files again"
        )


def _require_same_base(expected: BaseIdentity, actual: BaseIdentity, adapter: Path) -> None:
    if not expected.has_same_shape(actual):
        raise AdapterMismatchError(
            f"the adapter {adapter} was made for {expected.describe()}, not for {actual.describe()}: "
            "load the adapter onto the base model it was trained on"
        )
    if not expected.has_same_weights(actual):
        raise AdapterMismatchError(
            f"the adapter {adapter} was made for {expected.describe()}; {actual.name} has the same shape but different "
            "weights: load the adapter onto the base model it was trained on"
        )


def _check_shapes(adapter: Path, found: AdapterLayers, config: BaichuanConfig, base: BaseIdentity) -> None:
    """Check that the base model has a layer of matching shape for every LoRA matrix."""
    layers = linear_layers(config) | {HEAD: (config.vocab_size, config.hidden_size)}
    for layer, parts in found.layers.items():
        features = layers.get(f"{layer}.weight")
        if features is None:
            raise AdapterMismatchError(
                f"the adapter {adapter} changes {layer}, which {base.describe()} does not have: "
                "load the adapter onto the base model it was trained on"
            )
        expected_shapes = {"A": (-1, features[1]), "B": (features[0], -1), "magnitude": (features[0],)}
        for part, shape in parts.shapes.items():
            expected = expected_shapes[part]
            if len(shape) != len(expected) or any(e not in (-1, s) for s, e in zip(shape, expected, strict=True)):
                raise AdapterMismatchError(
                    f"the adapter {adapter} has {parts.names[part]} of shape {list(shape)}, which does not fit the "
                    f"layer of shape {list(features)} in {base.describe()}: "
                    "load the adapter onto the base model it was trained on"
                )
