"""Quantizes the layers of a loaded model, one at a time."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.quantizers.auto import AutoHfQuantizer

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError

from .eight_bit_embedding_and_head import EightBitEmbedding, EightBitHead
from .eight_bits import quantize_rows_in_float16
from .four_bits import BLOCK_SIZE, keep_scales, quantize_to_four_bits, unpack_weight

QuantizationMethod = Literal["int8", "nf4", "fp4"]
ComputeDtype = Literal["bfloat16", "float16", "float32"]
QUANTIZATION_METHODS = ("int8", "nf4", "fp4")
COMPUTE_DTYPES = ("bfloat16", "float16", "float32")
OUTLIER_THRESHOLD = 6.0  # Dettmers et al. 2022, arXiv 2208.07339
# bitsandbytes' 4-bit CPU kernels process 32 output features and one block of 64 input features at a time.
FOUR_BIT_ALIGNMENT = {"output": 32, "input": BLOCK_SIZE}


def make_quantization_settings(
    method: QuantizationMethod,
    *,
    double_quantization: bool = True,
    compute_dtype: ComputeDtype = "bfloat16",
    threshold: float = OUTLIER_THRESHOLD,
) -> BitsAndBytesConfig:
    """Create the quantization configuration that transformers stores and reads.

    Args:
        method: "int8" (LLM.int8()), "nf4" or "fp4".
        double_quantization: Store the scales of 4-bit blocks in 8 bits; ignored for int8.
        compute_dtype: Dtype that 4-bit layers compute in; ignored for int8.
        threshold: Inputs of at least this magnitude are not quantized in int8 layers; ignored for 4 bits.

    Raises:
        UnsupportedError: The method or dtype is unknown.
    """
    if method not in QUANTIZATION_METHODS:
        raise UnsupportedError(f'method {method!r} is unknown: use "int8", "nf4" or "fp4"')
    if compute_dtype not in COMPUTE_DTYPES:
        raise UnsupportedError(f'compute_dtype {compute_dtype!r} is unknown: use "bfloat16", "float16" or "float32"')
    if method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=method,
        bnb_4bit_use_double_quant=double_quantization,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def require_four_bit_shapes(shapes: Mapping[str, Iterable[int]]) -> None:
    """Reject layers with shapes that the 4-bit kernels do not support.

    Args:
        shapes: Shapes [out, in] by layer name.

    Raises:
        UnsupportedError: A shape is not supported; the message names the layer.
    """
    for name, shape in shapes.items():
        for (side, multiple), features in zip(FOUR_BIT_ALIGNMENT.items(), shape, strict=True):
            if features % multiple:
                raise UnsupportedError(
                    f"{name} has {features} {side} features, but 4-bit layers require a multiple of {multiple}: "
                    'use the method "int8"'
                )


class OnlineQuantizationMixin:
    """Mixin for `model.quantize(4)` and `model.quantize(8)`, as in Baichuan 2's published code."""

    if TYPE_CHECKING:
        config: BaichuanConfig
        model: Any
        lm_head: Any

    def quantize(
        self,
        bits: int,
        *,
        quant_type: Literal["nf4", "fp4"] = "nf4",
        double_quantization: bool = True,
        compute_dtype: ComputeDtype = "bfloat16",
        threshold: float = OUTLIER_THRESHOLD,
        quantize_head: bool = False,
    ) -> Self:
        """Quantize the linear layers of every block in place, one at a time, each on its own device.

        The model then computes the same results as the checkpoint written by `baichuan_core.quantize`. It can be moved,
        trained with LoRA, and saved to a checkpoint that loads with plain `from_pretrained`.

        Args:
            bits: 8 (LLM.int8()) or 4.
            quant_type: The 4-bit code book.
            double_quantization: Store the scales of 4-bit blocks in 8 bits.
            compute_dtype: Dtype that 4-bit layers compute in.
            threshold: Inputs of at least this magnitude are not quantized in 8-bit layers.
            quantize_head: Also quantize the embedding and output head, to 8 bits.

        Returns:
            The model itself.

        Raises:
            UnsupportedError: `bits` is not 4 or 8; the layers are already quantized, have an adapter, are offloaded or
                have a shape without a 4-bit kernel; or `quantize_head` is set and the embedding is also the head.
        """
        if bits not in (4, 8):
            raise UnsupportedError(f"bits is {bits}: use 8 or 4")
        settings = make_quantization_settings(
            "int8" if bits == 8 else quant_type,  # noqa: PLR2004
            double_quantization=double_quantization,
            compute_dtype=compute_dtype,
            threshold=threshold,
        )
        linear = self._find_layers_to_quantize()
        if bits == 4:  # noqa: PLR2004
            require_four_bit_shapes({name: layer.weight.shape for name, layer in linear.items()})
        if quantize_head and self.config.tie_word_embeddings:
            raise UnsupportedError("the embedding of this model is also its output head: do not set quantize_head")
        while linear:
            name, layer = linear.popitem()
            _replace_layer(self.model, name, create_quantized_linear(layer.weight, settings))
            del layer
        if quantize_head:
            _replace_layer(self.model, "embed_tokens", EightBitEmbedding.from_dense(self.model.embed_tokens.weight))
            _replace_layer(self, "lm_head", EightBitHead.from_dense(self.lm_head.weight))
            self.config.quantize_head = True
        self._mark_as_quantized(settings)
        return self

    def _find_layers_to_quantize(self) -> dict[str, nn.Linear]:
        """Return the linear layers of the blocks, by their names within `self.model`."""
        if getattr(self.config, "quantization_config", None) is not None:
            raise UnsupportedError("this model is already quantized: quantize the original model instead")
        modules = dict(self.model.named_modules())
        if any("lora_" in name for name in modules):
            raise UnsupportedError("this model has an adapter: merge it first, or load it after quantizing")
        linear = {name: module for name, module in modules.items() if type(module) is nn.Linear}
        for name, layer in linear.items():
            if layer.weight.is_meta:
                raise UnsupportedError(
                    f"model.{name} is not in memory (offloaded, or on the meta device): load the model without "
                    "offloading, or quantize it while loading, with load_model(..., quantization=...)"
                )
        return linear

    def _mark_as_quantized(self, settings: BitsAndBytesConfig) -> None:
        """Set the attributes that transformers sets on quantized models, and that saving, moving and peft check."""
        model: Any = self
        model.is_quantized = True
        model.quantization_method = settings.quant_method
        model.hf_quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
        model.hf_quantizer.postprocess_model(model)


def create_quantized_linear(weight: Tensor, settings: BitsAndBytesConfig) -> nn.Module:
    """Create bitsandbytes' layer for a dense weight [out, in], on the weight's device."""
    layers = import_module("bitsandbytes.nn")
    features, inputs = weight.shape
    layer: nn.Module
    with torch.device("meta"):
        if settings.load_in_8bit:
            layer = layers.Linear8bitLt(
                inputs, features, bias=False, has_fp16_weights=False, threshold=settings.llm_int8_threshold
            )
        else:
            layer = layers.Linear4bit(
                inputs,
                features,
                bias=False,
                compute_dtype=settings.bnb_4bit_compute_dtype,
                compress_statistics=settings.bnb_4bit_use_double_quant,
                quant_type=settings.bnb_4bit_quant_type,
                quant_storage=settings.bnb_4bit_quant_storage,
            )
    layer.weight = create_quantized_parameter(weight, settings, layer)
    return layer


def create_quantized_parameter(weight: Tensor, settings: BitsAndBytesConfig, layer: nn.Module) -> nn.Parameter:
    """Quantize a weight [out, in] to a parameter of the given bitsandbytes layer."""
    layers = import_module("bitsandbytes.nn")
    parameter: nn.Parameter
    if settings.load_in_8bit:
        codes, largest = quantize_rows_in_float16(weight)
        parameter = layers.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=largest)
        return parameter
    double_quantization = settings.bnb_4bit_use_double_quant
    codes, state = quantize_to_four_bits(weight, settings.bnb_4bit_quant_type, double_quantization=double_quantization)
    keep_scales(state)
    layer.quant_state = state
    parameter = layers.Params4bit(
        codes.squeeze(1).view(settings.bnb_4bit_quant_storage).unsqueeze(1),
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK_SIZE,
        compress_statistics=double_quantization,
        quant_type=settings.bnb_4bit_quant_type,
        quant_storage=settings.bnb_4bit_quant_storage,
        module=layer,
        bnb_quantized=True,
    )
    return parameter


def rebind_int8_codes(module: Any) -> None:
    """Make an 8-bit bitsandbytes layer use the current codes and device of its weight.

    The layer has a second reference to the codes, and its scales are not a buffer. Both are attributes of the weight
    until the first forward pass, and of `layer.state` from then on.
    """
    weight: Any = getattr(module, "weight", None)
    holder: Any
    for holder in (weight, getattr(module, "state", None)):
        if isinstance(getattr(holder, "CB", None), Tensor):
            holder.CB, holder.SCB = weight.data, holder.SCB.to(weight.device)


def unpack_four_bits(model: nn.Module, *_: Any) -> None:
    """Undo bitsandbytes' CPU packing of 4-bit layers, so that they can be saved or moved."""
    for module in model.modules():
        unpack_weight(getattr(module, "weight", None))


def keep_four_bit_scales(model: nn.Module) -> None:
    """Keep the exact scales of a loaded model's 4-bit layers, so that saving after a CPU forward pass is lossless."""
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            keep_scales(state)


def prepare_dora_layers(model: nn.Module) -> None:
    """Make bitsandbytes' layers under a DoRA adapter compatible with peft's dequantization on a CPU.

    peft dequantizes the weight in every forward pass to compute the norms of its rows. It treats 4-bit codes that
    bitsandbytes has packed for a CPU like unpacked ones, so the norms would be wrong, and it replaces an 8-bit weight
    with one that lacks its scales.
    """
    for module in model.modules():
        if len(getattr(module, "lora_magnitude_vector", ())):
            base: Any = module.get_submodule("base_layer")
            if hasattr(base, "support_avx512bf16_for_cpu"):
                base.support_avx512bf16_for_cpu = False
                unpack_weight(base.weight)
            elif isinstance(getattr(base.weight, "CB", None), Tensor):
                base.register_forward_pre_hook(_restore_int8_scales)


def _restore_int8_scales(layer: Any, _inputs: object) -> None:
    if layer.weight.CB is not None and layer.weight.SCB is None:
        layer.weight.SCB = layer.state.SCB


def _replace_layer(parent: Any, name: str, layer: nn.Module) -> None:
    """Replace a layer, keeping its training mode and accelerate hook."""
    old = parent.get_submodule(name)
    layer.train(old.training)
    if hasattr(old, "_hf_hook"):
        import_module("accelerate.hooks").add_hook_to_module(layer, old._hf_hook)
    parent.set_submodule(name, layer)
