"""LoRA adapters: whether one belongs to a base, its matrices, and putting them into a loaded model as peft would."""

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
    find_adapter_weights,
    is_saved,
    promised_layers,
    refuse_integers,
    require_promised,
    sort_tensors,
)
from checkpoint_files.adapter_layers import Part
from checkpoint_files.layout import HEAD, expected_tensors, linear_layers

from .base_identity import IDENTITY_FILE, BaseIdentity
from .companions import read_config
from .file_errors import engine_errors
from .reader import TensorReader
from .validation import is_quantized

ADAPTER_NAME = "default"
# Where peft stores the parts of a layer, below the name of the layer.
PEFT_NAMES: Mapping[Part, str] = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter that belongs to a base.

    Attributes:
        directory: Where it is.
        settings: Its settings.
        layers: Its matrices by part ("A" [rank, in], "B" [out, rank], for DoRA "magnitude" [out]), by layer.
        saved_modules: Weights that replace those of the base, by module.
    """

    directory: Path
    settings: AdapterSettings
    layers: Mapping[str, Mapping[Part, Tensor]]
    saved_modules: Mapping[str, Tensor]

    @classmethod
    def read(cls, directory: Path, base: Path) -> Self:
        """Read an adapter and make sure that it belongs to a base checkpoint.

        Raises:
            CheckpointError: The directory is no adapter, or a part of it is missing.
            AdapterMismatchError: It was made for another base; the message says for which.
            UnsupportedError: It is no LoRA adapter, or of a kind that cannot be restored on this base.
        """
        with engine_errors():
            settings = AdapterSettings.read(directory)
            file = find_adapter_weights(directory)
        with TensorReader(directory, file) as reader, engine_errors():
            found = sort_tensors({name: reader.shape(name) for name in reader.names}, settings, file)
            refuse_integers({name: reader.dtype(name) for name in reader.names if not reader.is_float(name)}, file)
            _check_base(directory, settings, found, base, file)
            replaced = {module: reader.shape(name) for module, name in found.saved_modules.items()}
            _check_saved_modules(directory, settings, replaced, base)
            # Copied, because the file is closed before they are used.
            layers = {
                layer: {part: reader.read(name).clone() for part, name in parts.names.items()}
                for layer, parts in found.layers.items()
            }
            saved = {module: reader.read(name).clone() for module, name in found.saved_modules.items()}
        return cls(directory, settings, layers, saved)

    def put_into(self, model: BaichuanForCausalLM) -> None:
        """Add the layers of the adapter to its base model, as peft does.

        Raises:
            CheckpointError: Its tensors do not fill the layers that its settings name.
        """
        peft = import_module("peft")
        try:
            peft.inject_adapter_in_model(peft_config(self.settings), model, ADAPTER_NAME)
            # As PeftModel.from_pretrained: matrices of half precision are float32, also on a base that is not.
            import_module("peft.tuners.tuners_utils").cast_adapter_dtype(model, ADAPTER_NAME)
            result = peft.set_peft_model_state_dict(model, self._state_dict(), ADAPTER_NAME)
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"the adapter {self.directory} cannot be loaded ({error}): copy it again, whole"
            ) from error
        missing = [name for name in result.missing_keys if ".lora_" in name or ".modules_to_save." in name]
        if missing or result.unexpected_keys:
            name = (*missing, *result.unexpected_keys)[0]
            raise CheckpointError(
                f"the adapter {self.directory} and its settings differ in {name}: copy it again, whole"
            )
        prepare_dora_layers(model)
        model._hf_peft_config_loaded = True  # what transformers' load_adapter sets, and saving and merging ask
        model.eval()
        for name, parameter in model.named_parameters():
            if ".lora_" in name or ".modules_to_save." in name:
                parameter.requires_grad_(False)

    def _state_dict(self) -> dict[str, Tensor]:
        matrices = {
            f"{layer}.{PEFT_NAMES[part]}": tensor
            for layer, parts in self.layers.items()
            for part, tensor in parts.items()
        }
        return matrices | {f"{module}.weight": tensor for module, tensor in self.saved_modules.items()}


def check_adapter(adapter: Path, base: Path) -> None:
    """Make sure that a LoRA adapter belongs to a base checkpoint; raises what `LoraAdapter.read` raises."""
    LoraAdapter.read(adapter, base)


def peft_config(settings: AdapterSettings, **changes: Any) -> Any:
    """Return peft's configuration of an adapter."""
    fields = {**asdict(settings), "inference_mode": True, **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for training: the adapter is trained
        return import_module("peft").LoraConfig(**{name: value for name, value in fields.items() if value is not None})


def initial_matrices(settings: AdapterSettings, layer: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B as the adapter's initialization made them; the base was reduced by their product.

    Args:
        settings: Settings of an adapter that changed its base.
        layer: Name of the layer.
        weight: Its weight in the base, float32 [out, in].
    """
    peft = import_module("peft")
    with_layer = nn.Sequential()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    with_layer.add_module("layer", linear)
    alone = {"r": settings.rank(layer), "target_modules": ["layer"], "rank_pattern": {}, "alpha_pattern": {}}
    # The initialization divides by the factor of the layer, which is alpha here.
    factor = {"use_rslora": False, "lora_alpha": settings.scale(layer) * settings.rank(layer), "use_dora": False}
    unrestricted = {"layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
    config = peft_config(settings, **alone, **factor, **unrestricted, modules_to_save=None)
    adapted: Any = peft.inject_adapter_in_model(config, with_layer, ADAPTER_NAME).get_submodule("layer")
    a, b = adapted.lora_A[ADAPTER_NAME].weight, adapted.lora_B[ADAPTER_NAME].weight
    return a.detach(), b.detach()


def _check_base(directory: Path, settings: AdapterSettings, found: AdapterLayers, base: Path, file: Path) -> None:
    config = read_config(base)
    given = BaseIdentity.of(base)
    if (directory / IDENTITY_FILE).is_file():
        _compare(BaseIdentity.read(directory / IDENTITY_FILE), given, directory)
    _check_shapes(directory, found, config, given)
    linear = [name.removesuffix(".weight") for name in (*linear_layers(config), HEAD)]
    require_promised(found.layers, promised_layers(settings, linear), found.saved_modules, settings, file)
    if settings.changes_base and is_quantized(config):
        raise UnsupportedError(
            f'the adapter {directory} was initialized by "{settings.init_lora_weights}", which changed the weights of '
            f"its base before training: use it on the base that is not quantized, not on {base}"
        )


def _check_saved_modules(
    directory: Path, settings: AdapterSettings, saved: Mapping[str, tuple[int, ...]], base: Path
) -> None:
    """Compare the modules of `modules_to_save` with those of the base, which they replace."""
    config = read_config(base)
    tensors = {HEAD: (config.vocab_size, config.hidden_size), **expected_tensors(config)}
    shapes = {name.removesuffix(".weight"): shape for name, shape in tensors.items()}
    for module, shape in saved.items():
        if shapes.get(module) != shape:
            raise AdapterMismatchError(
                f"the adapter {directory} replaces {module} by a weight of shape {list(shape)} (modules_to_save); "
                f"it has the shape {list(shapes.get(module, ()))} in {BaseIdentity.of(base).describe()}: "
                "load it on its own base"
            )
    if missing := [module for module in shapes if is_saved(module, settings) and module not in saved]:
        raise CheckpointError(
            f"the adapter {directory} lacks {missing[0]}, which modules_to_save names: copy it again, whole"
        )


def _compare(wanted: BaseIdentity, given: BaseIdentity, adapter: Path) -> None:
    if not wanted.same_shape(given):
        raise AdapterMismatchError(
            f"the adapter {adapter} was made for {wanted.describe()}, not for {given.describe()}: load it on that base"
        )
    if not wanted.same_numbers(given):
        raise AdapterMismatchError(
            f"the adapter {adapter} was made for {wanted.describe()}; {given.name} has the same shape and other "
            "weights: load it on that base"
        )


def _check_shapes(adapter: Path, found: AdapterLayers, config: BaichuanConfig, given: BaseIdentity) -> None:
    """Look for the layer of every LoRA matrix in the base."""
    layers = linear_layers(config) | {HEAD: (config.vocab_size, config.hidden_size)}
    for layer, parts in found.layers.items():
        features = layers.get(f"{layer}.weight")
        if features is None:
            raise AdapterMismatchError(
                f"the adapter {adapter} changes {layer}, which {given.describe()} does not have: "
                "load it on its own base"
            )
        fitting = {"A": (-1, features[1]), "B": (features[0], -1), "magnitude": (features[0],)}
        for part, shape in parts.shapes.items():
            wanted = fitting[part]
            if len(shape) != len(wanted) or any(w not in (-1, s) for s, w in zip(shape, wanted, strict=True)):
                raise AdapterMismatchError(
                    f"the adapter {adapter} has {parts.names[part]} of shape {list(shape)} for a layer of shape "
                    f"{list(features)} in {given.describe()}: load it on its own base"
                )
