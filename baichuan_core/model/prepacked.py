"""Faster linear layers for inference on a CPU, chosen by the kernels that the processor supports.

torch normally multiplies with a weight in row-major layout. oneDNN's kernels, which compiled models use, need the
weight reordered into blocks; they take half the time for one row of input and a fifth for four rows. If the processor
has no kernels for a half-precision dtype, torch multiplies element by element; converting slices of the weight to
float32 then takes a sixth of the time. See docs/decisions/0015-weights-in-blocks-on-a-cpu.md.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from baichuan_core.errors import UnsupportedError

from .chunked_loss import LinearHead

PREPACKABLE_LAYERS = frozenset({"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"})
HALF_PRECISION_DTYPES = (torch.bfloat16, torch.float16)
# Up to this many rows, multiplying element by element is faster than converting the weight.
MAX_ELEMENTWISE_ROWS = 8
FEATURES_PER_SLICE = 256  # output features to convert to float32 at a time; few enough to stay in the cache
BASE_LAYER_SUFFIX = ".base_layer"  # peft's name for the original layer under an adapter


class PrepackedLinear(nn.Module):
    """Replacement for an `nn.Linear` without bias; its weight cannot be trained, saved or moved."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        weight = dense.weight.detach()
        self.dtype = weight.dtype
        # An opaque tensor, which cannot be a parameter or a buffer.
        self._blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._blocks, None, "none", [], "")
        return product

    def _apply(self, fn: Callable[[Tensor], Tensor], _recurse: bool = True) -> Self:
        before = torch.empty(0, dtype=self.dtype)
        after = fn(before)
        if (after.dtype, after.device) != (before.dtype, before.device):
            raise UnsupportedError(
                "prepacked weights cannot change device or dtype: load the model again to move it or cast it"
            )
        return self

    def _save_to_state_dict(self, *_: Any) -> None:
        raise UnsupportedError("prepacked weights are for inference only: load the model again to save it")


class PrepackedHead(PrepackedLinear):
    """A prepacked output head with the row norms that NormHead divides by."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense)
        self.norms: Tensor
        norms = torch.linalg.vector_norm(dense.weight.detach(), dim=-1, dtype=torch.float32)
        self.register_buffer("norms", norms, persistent=False)

    def row_norms(self) -> Tensor:
        """Return the L2 norms of the rows, float32 [out_features]."""
        return self.norms


class UpcastLinear(nn.Linear):
    """A half-precision layer that computes in float32 for inputs of many rows, one slice of the weight at a time.

    Only the result is rounded to half precision.
    """

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=False, device="meta")
        self.weight = dense.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        if x.numel() <= MAX_ELEMENTWISE_ROWS * self.in_features:
            return super().forward(x)
        exact = x.float()
        parts = [linear(exact, part.float()).to(x.dtype) for part in self.weight.split(FEATURES_PER_SLICE)]
        return torch.cat(parts, dim=-1)


def prepack(model: nn.Module) -> None:
    """Replace a Baichuan model's plain linear layers on the CPU with the fastest kind for the processor."""
    model.requires_grad_(requires_grad=False)
    packed = False
    plain = [name for name, module in model.named_modules() if _is_plain_linear(module, name)]
    for name in [name for name in plain if not _is_read_by_dora(model, name)]:
        # Each layer is released before the next one is packed, so at most one is in memory twice.
        dense: Any = model.get_submodule(name)
        if has_matmul_kernels(dense.weight.dtype):
            kind = PrepackedHead if name.startswith("lm_head") else PrepackedLinear
            model.set_submodule(name, kind(dense))
            packed = True
        elif dense.weight.dtype in HALF_PRECISION_DTYPES:
            model.set_submodule(name, UpcastLinear(dense))
    for parameter in model.parameters() if packed else ():
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()  # releases the memory-mapped file


def _is_plain_linear(module: nn.Module, name: str) -> bool:
    if (
        type(module) not in (nn.Linear, LinearHead)
        or name.removesuffix(BASE_LAYER_SUFFIX).rpartition(".")[2] not in PREPACKABLE_LAYERS
    ):
        return False
    offloaded = hasattr(module, "_hf_hook")  # accelerate loads the weight when the layer runs
    return module.weight.device.type == "cpu" and not offloaded


def _is_read_by_dora(model: nn.Module, name: str) -> bool:
    """Return whether an adapter reads the weight in every pass, as peft's DoRA does to compute the row norms."""
    if not name.endswith(BASE_LAYER_SUFFIX):
        return False
    return bool(getattr(model.get_submodule(name.removesuffix(BASE_LAYER_SUFFIX)), "lora_magnitude_vector", None))


def has_matmul_kernels(dtype: torch.dtype) -> bool:
    """Return whether this processor has matrix multiplication kernels for a dtype."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32
