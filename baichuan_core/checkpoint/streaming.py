"""Quantizes a model while loading it: each tensor is quantized on its device before the next one is read."""

from typing import Any

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from baichuan_core.model.eight_bit_embedding_and_head import EightBitMatrix, quantize_to_scaled_codes
from baichuan_core.model.quantization import create_quantized_parameter

# Name under which the quantizer below is registered with transformers; it is never written to a saved configuration.
QUANTIZER_NAME = "baichuan_streaming"


@register_quantization_config(QUANTIZER_NAME)
class StreamingQuantizationConfig(BitsAndBytesConfig):
    """bitsandbytes' settings for our quantizer, which is faster on CPUs and also supports 8-bit embeddings and heads.

    Args:
        settings: Settings that the configuration of the loaded model will contain.
    """

    def __init__(self, settings: BitsAndBytesConfig) -> None:
        self.__dict__.update(settings.__dict__)
        self.settings = settings
        self.quant_method = QUANTIZER_NAME  # type: ignore[assignment]


@register_quantizer(QUANTIZER_NAME)
class StreamingQuantizer(Bnb4BitHfQuantizer):
    """Quantizer for 4 and 8 bits, based on transformers' 4-bit quantizer.

    transformers' 8-bit quantizer differs from the 4-bit one only in the methods overridden here.
    """

    quantization_config: StreamingQuantizationConfig

    @property
    def quantized_element_size(self) -> float:
        """Bytes per quantized weight, used to compute device maps."""
        return 1.0 if self.quantization_config.load_in_8bit else 0.5

    def param_element_size(self, model: PreTrainedModel, param_name: str, param: Tensor) -> float:
        """Return the bytes per element of a parameter; 8-bit embeddings and heads already have their final dtype."""
        if param.dtype == torch.int8:
            return 1.0
        size: float = super().param_element_size(model, param_name, param)
        return size

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **_: Any) -> bool:
        """Return whether `TensorQuantizationOp` has to convert a tensor of the checkpoint."""
        module, name = get_module_from_name(model, param_name)
        return name == "weight" and (isinstance(module, EightBitMatrix) or hasattr(module, "source_cls"))

    def get_quantize_ops(self) -> ConversionOps:
        """Return the operation that quantizes a tensor."""
        return TensorQuantizationOp(self)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        model._mark_as_quantized(self.quantization_config.settings)
        return model


class TensorQuantizationOp(ConversionOps):
    """Operation that quantizes one dense weight, on its device, for the layer it belongs to."""

    def __init__(self, quantizer: StreamingQuantizer) -> None:
        self._settings = quantizer.quantization_config.settings

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],  # noqa: ARG002 - transformers' signature
        target_patterns: list[str],  # noqa: ARG002
        **kwargs: Any,
    ) -> dict[str, list[Tensor]]:
        """Return the tensors to store in the model, by name."""
        ((name, dense),) = input_dict.items()
        weight: Tensor = dense[0] if isinstance(dense, list) else dense
        layer, _ = get_module_from_name(kwargs["model"], name)
        if isinstance(layer, EightBitMatrix):
            codes, scale = quantize_to_scaled_codes(weight)
            return {name: [codes], f"{name.removesuffix('weight')}scale": [scale]}
        return {name: [create_quantized_parameter(weight, self._settings, layer)]}
