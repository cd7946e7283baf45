"""Quantizes the layers of a model that is loaded already, one at a time."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.quantizers.auto import AutoHfQuantizer

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError

from .eight_bit_ends import EightBitEmbedding, EightBitHead
from .eight_bits import quantize_rows_in_float16
from .four_bits import BLOCK, keep_scales, quantize_four_bits, unpack

QuantizationMethod = Literal["int8", "nf4", "fp4"]
ComputeDtype = Literal["bfloat16", "float16", "float32"]
METHODS = ("int8", "nf4", "fp4")
COMPUTE_DTYPES = ("bfloat16", "float16", "float32")
OUTLIER_THRESHOLD = 6.0  # Dettmers et al. 2022, arXiv 2208.07339
# bitsandbytes' 4-bit kernels on CPUs take 32 output features and one block of 64 input features at a time.
FOUR_BIT_MULTIPLES = {"output": 32, "input": BLOCK}


def quantization_settings(
    method: QuantizationMethod,
    *,
    double_quantization: bool = True,
    compute_dtype: ComputeDtype = "bfloat16",
    threshold: float = OUTLIER_THRESHOLD,
) -> BitsAndBytesConfig:
    """What transformers has to know about a quantized model.

    Args:
        method: "int8" (LLM.int8()), "nf4" or "fp4".
        double_quantization: Keep the scales of 4-bit blocks in 8 bits; int8 has no use for it.
        compute_dtype: Dtype that 4-bit layers compute in; int8 has no use for it.
        threshold: Inputs of this size and above stay floats in int8 layers; 4 bits have no use for it.

    Raises:
        UnsupportedError: A method or dtype that is not known.
    """
    if method not in METHODS:
        raise UnsupportedError(f'method {method!r} is not known: use "int8", "nf4" or "fp4"')
    if compute_dtype not in COMPUTE_DTYPES:
        raise UnsupportedError(f'compute_dtype {compute_dtype!r} is not known: use "bfloat16", "float16" or "float32"')
    if method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=method,
        bnb_4bit_use_double_quant=double_quantization,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def require_four_bit_shapes(shapes: Mapping[str, Iterable[int]]) -> None:
    """Refuse layers that the 4-bit kernels cannot take.

    Args:
        shapes: [out, in] by name.

    Raises:
        UnsupportedError: The message names the layer.
    """
    for name, shape in shapes.items():
        for (side, multiple), features in zip(FOUR_BIT_MULTIPLES.items(), shape, strict=True):
            if features % multiple:
                raise UnsupportedError(
                    f"{name} has {features} {side} features, and 4-bit layers need a multiple of {multiple}: "
                    'use the method "int8"'
                )


class OnlineQuantization:
    """`model.quantize(4)` and `model.quantize(8)`, as Baichuan 2's users write it."""

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
        """Quantize the linear layers of every block in place, one at a time, on the device where each is.

        The model then computes what the checkpoint that `baichuan_core.quantize` writes computes, can be moved,
        trained with LoRA, and saved in the form that loads with plain `from_pretrained`.

        Args:
            bits: 8 (LLM.int8()) or 4.
            quant_type: The 4-bit code book.
            double_quantization: Keep the scales of 4-bit blocks in 8 bits.
            compute_dtype: Dtype that 4-bit layers compute in.
            threshold: Inputs of this size and above stay floats in 8-bit layers.
            quantize_head: Keep embedding and output head in 8 bits too.

        Returns:
            The model itself.

        Raises:
            UnsupportedError: Other bits, layers that are quantized, adapted, off-loaded or of a shape without a
                4-bit kernel, or an embedding that is the head too.
        """
        if bits not in (4, 8):
            raise UnsupportedError(f"{bits} bits: use 8 or 4")
        settings = quantization_settings(
            "int8" if bits == 8 else quant_type,  # noqa: PLR2004
            double_quantization=double_quantization,
            compute_dtype=compute_dtype,
            threshold=threshold,
        )
        linear = self._layers_to_quantize()
        if bits == 4:  # noqa: PLR2004
            require_four_bit_shapes({name: layer.weight.shape for name, layer in linear.items()})
        if quantize_head and self.config.tie_word_embeddings:
            raise UnsupportedError("the embedding of this model is its head too: leave quantize_head out")
        while linear:
            name, layer = linear.popitem()
            _replace(self.model, name, quantized_linear(layer.weight, settings))
            del layer
        if quantize_head:
            _replace(self.model, "embed_tokens", EightBitEmbedding.of(self.model.embed_tokens.weight))
            _replace(self, "lm_head", EightBitHead.of(self.lm_head.weight))
            self.config.quantize_head = True
        self._declare_quantized(settings)
        return self

    def _layers_to_quantize(self) -> dict[str, nn.Linear]:
        """The linear layers of the blocks by name within `self.model`."""
        if getattr(self.config, "quantization_config", None) is not None:
            raise UnsupportedError("this model is quantized already: quantize the model it was made from")
        modules = dict(self.model.named_modules())
        if any("lora_" in name for name in modules):
            raise UnsupportedError("this model carries an adapter: merge it first, or load it after quantizing")
        linear = {name: module for name, module in modules.items() if type(module) is nn.Linear}
        for name, layer in linear.items():
            if layer.weight.is_meta:
                raise UnsupportedError(
                    f"model.{name} is not in memory (off-loaded, or on the meta device): load the model whole, "
                    "or quantize it while loading, with load_model(..., quantization=...)"
                )
        return linear

    def _declare_quantized(self, settings: BitsAndBytesConfig) -> None:
        """Leave the marks of a model that transformers quantized, which saving, moving and peft look for."""
        model: Any = self
        model.is_quantized = True
        model.quantization_method = settings.quant_method
        model.hf_quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
        model.hf_quantizer.postprocess_model(model)


def quantized_linear(weight: Tensor, settings: BitsAndBytesConfig) -> nn.Module:
    """bitsandbytes' layer for a dense weight [out, in], on its device."""
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
    layer.weight = quantized_parameter(weight, settings, layer)
    return layer


def quantized_parameter(weight: Tensor, settings: BitsAndBytesConfig, layer: nn.Module) -> nn.Parameter:
    """The weight [out, in] as the parameter of bitsandbytes' layer that it will stand in."""
    layers = import_module("bitsandbytes.nn")
    parameter: nn.Parameter
    if settings.load_in_8bit:
        codes, largest = quantize_rows_in_float16(weight)
        parameter = layers.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=largest)
        return parameter
    double_quantization = settings.bnb_4bit_use_double_quant
    codes, state = quantize_four_bits(weight, settings.bnb_4bit_quant_type, double_quantization=double_quantization)
    keep_scales(state)
    layer.quant_state = state
    parameter = layers.Params4bit(
        codes.squeeze(1).view(settings.bnb_4bit_quant_storage).unsqueeze(1),
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK,
        compress_statistics=double_quantization,
        quant_type=settings.bnb_4bit_quant_type,
        quant_storage=settings.bnb_4bit_quant_storage,
        module=layer,
        bnb_quantized=True,
    )
    return parameter


def follow_codes(module: Any) -> None:
    """Let an 8-bit layer of bitsandbytes compute with the codes that stand in its weight now, on their device.

    It has a second name for them, and scales that are no buffer: at the weight until its first forward pass, then in
    a state of its own.
    """
    weight: Any = getattr(module, "weight", None)
    holder: Any
    for holder in (weight, getattr(module, "state", None)):
        if isinstance(getattr(holder, "CB", None), Tensor):
            holder.CB, holder.SCB = weight.data, holder.SCB.to(weight.device)


def unpack_four_bits(model: nn.Module, *_: Any) -> None:
    """Undo how bitsandbytes packs 4-bit layers for a CPU in a forward pass, before they are saved or moved."""
    for module in model.modules():
        unpack(getattr(module, "weight", None))


def keep_four_bit_scales(model: nn.Module) -> None:
    """Have the 4-bit layers of a model that is loaded saved as they are, also after a forward pass on a CPU."""
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            keep_scales(state)


def _replace(parent: Any, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another one, with the mode and the accelerate hook of that one."""
    old = parent.get_submodule(name)
    layer.train(old.training)
    if hasattr(old, "_hf_hook"):
        import_module("accelerate.hooks").add_hook_to_module(layer, old._hf_hook)
    parent.set_submodule(name, layer)
