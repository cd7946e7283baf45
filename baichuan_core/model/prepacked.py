"""Linear layers for inference on a CPU, by what the processor has kernels for.

torch hands a plain layer's few rows to a library that reads the weight as it lies, row after row. The kernels of oneDNN
that compiled models use want it in blocks, and take half the time for one row and a fifth for four. Half precision for
which a processor has no kernels is multiplied number by number; there float32 copies of parts of the weight take a
sixth of the time (docs/decisions/0015-weights-in-blocks-on-a-cpu.md).
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from baichuan_core.errors import UnsupportedError

from .chunked_loss import LinearHead

LAYERS = frozenset({"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"})
HALF_PRECISION = (torch.bfloat16, torch.float16)
FEW_ROWS = 8  # up to so many are computed faster number by number
PART = 256  # output features that are float32 at a time, so that they stay in the cache
LAYER_UNDER_ADAPTER = ".base_layer"  # peft's name for what an adapter adds to


class PrepackedLinear(nn.Module):
    """Stands where an `nn.Linear` without bias stood. Its weight cannot be trained, saved or moved."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        weight = dense.weight.detach()
        self.dtype = weight.dtype
        # An opaque tensor, which neither a parameter nor a buffer can be.
        self._blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._blocks, None, "none", [], "")
        return product

    def _apply(self, fn: Callable[[Tensor], Tensor], _recurse: bool = True) -> Self:
        before = torch.empty(0, dtype=self.dtype)
        after = fn(before)
        if (after.dtype, after.device) != (before.dtype, before.device):
            raise UnsupportedError("prepacked weights stay where and as they are: load the model again to move it")
        return self

    def _save_to_state_dict(self, *_: Any) -> None:
        raise UnsupportedError("prepacked weights are for inference only: load the model again to save it")


class PrepackedHead(PrepackedLinear):
    """An output head, which tells what NormHead divides by."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense)
        self.norms: Tensor
        norms = torch.linalg.vector_norm(dense.weight.detach(), dim=-1, dtype=torch.float32)
        self.register_buffer("norms", norms, persistent=False)

    def row_norms(self) -> Tensor:
        """L2 norms of the rows, float32 [out_features]."""
        return self.norms


class WidenedLinear(nn.Linear):
    """Computes many rows of half precision in float32, a part of the weight at a time; only the result is rounded."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=False, device="meta")
        self.weight = dense.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        if x.numel() <= FEW_ROWS * self.in_features:
            return super().forward(x)
        exact = x.float()
        parts = [linear(exact, part.float()).to(x.dtype) for part in self.weight.split(PART)]
        return torch.cat(parts, dim=-1)


def prepack(model: nn.Module) -> None:
    """Replaces the plain linear layers of a Baichuan model that lie on a CPU by what its processor computes fastest."""
    model.requires_grad_(requires_grad=False)
    packed = False
    for name in [name for name, module in model.named_modules() if _is_plain(module, name)]:
        dense: Any = model.get_submodule(name)  # let go in turn, so that few weights are there twice
        if has_kernels(dense.weight.dtype):
            kind = PrepackedHead if name.startswith("lm_head") else PrepackedLinear
            model.set_submodule(name, kind(dense))
            packed = True
        elif dense.weight.dtype in HALF_PRECISION:
            model.set_submodule(name, WidenedLinear(dense))
    for parameter in model.parameters() if packed else ():
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()  # nothing holds the mapped file any more


def _is_plain(module: nn.Module, name: str) -> bool:
    if (
        type(module) not in (nn.Linear, LinearHead)
        or name.removesuffix(LAYER_UNDER_ADAPTER).rpartition(".")[2] not in LAYERS
    ):
        return False
    offloaded = hasattr(module, "_hf_hook")  # accelerate puts the weight there when the layer runs
    return module.weight.device.type == "cpu" and not offloaded


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of a dtype as it should, not number by number."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32
