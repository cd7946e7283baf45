"""8-bit versions of the embedding and output head, which otherwise take up much of a 4-bit Baichuan 2's memory."""

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError

from .chunked_loss import LinearHead
from .eight_bits import MAX_CODE, quantize_rows

# Number of codes to convert to floats at a time: few enough to fit in a CPU's cache, or enough to keep a GPU busy.
CODES_PER_SLICE = {"cpu": 2**22, "cuda": 2**26}


class EightBitMatrix(nn.Module):
    """A frozen matrix [rows, width] of int8 codes in `weight`, with one float32 scale per row in `scale`.

    Both are buffers, so optimizers ignore them and `model.dtype` is the dtype of the other weights.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(rows, width, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(rows, dtype=torch.float32))
        self.weight: Tensor
        self.scale: Tensor
        self.dtype = torch.get_default_dtype()

    @classmethod
    def from_dense(cls, dense: Tensor) -> Self:
        """Quantize a matrix [rows, width]; the outputs of the layer have the dtype of the matrix."""
        with torch.device("meta"):
            table = cls(*dense.shape)
        table.weight, table.scale = quantize_to_scaled_codes(dense)
        table.dtype = dense.dtype
        return table

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the layer with the model, but keep its scale in float32."""
        exact = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scale.dtype != torch.float32:
            self.scale = exact.to(self.scale.device)
        return self


class EightBitEmbedding(EightBitMatrix):
    """Drop-in replacement for `nn.Embedding`."""

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the rows [..., width] of token ids [...]."""
        return (self.weight[ids] * self.scale[ids][..., None]).to(self.dtype)


class EightBitHead(EightBitMatrix):
    """Drop-in replacement for `nn.Linear` without bias."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [..., width] to [..., rows] in the same dtype; differentiable in `hidden_states`."""
        product: Tensor = _QuantizedProduct.apply(hidden_states, self.weight, self.scale)
        return product

    def row_norms(self) -> Tensor:
        """Compute the L2 norms of the rows, float32 [rows]."""
        norms = [torch.linalg.vector_norm(rows, dim=1) for _, rows in _iterate_slices(self.weight, torch.float32)]
        return torch.cat(norms) * self.scale


def quantize_to_scaled_codes(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a matrix to codes, int8 [rows, width], and scales, float32 [rows], whose product approximates it."""
    codes, absmax = quantize_rows(dense)
    return codes, absmax / MAX_CODE


class _QuantizedProduct(torch.autograd.Function):
    """hidden_states @ (weight * scale)ᵀ, converting one slice of the matrix to floats at a time, also in `backward`."""

    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        x = hidden_states.to(_choose_compute_dtype(hidden_states.dtype))
        product = hidden_states.new_empty((*x.shape[:-1], len(weight)))
        for rows, codes in _iterate_slices(weight, x.dtype):
            product[..., rows] = (x @ codes.T) * scale[rows]
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        dtype = _choose_compute_dtype(gradient.dtype)
        total = gradient.new_zeros((*gradient.shape[:-1], weight.shape[1]), dtype=torch.float32)
        for rows, codes in _iterate_slices(weight, dtype):
            total += (gradient[..., rows] * scale[rows]).to(dtype) @ codes
        return total.to(gradient.dtype), None, None


def _choose_compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32 instead of float16, which products with codes can overflow."""
    return torch.float32 if dtype == torch.float16 else dtype


def _iterate_slices(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of rows with their codes as floats; bfloat16 represents every code exactly."""
    step = max(CODES_PER_SLICE.get(weight.device.type, CODES_PER_SLICE["cuda"]) // weight.shape[1], 1)
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        yield rows, weight[rows].to(dtype)


def create_embedding(config: BaichuanConfig) -> nn.Module:
    """Create an uninitialized embedding for a configuration."""
    if config.quantize_head:
        return EightBitEmbedding(config.vocab_size, config.hidden_size)
    return nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)


def create_output_head(config: BaichuanConfig) -> nn.Module:
    """Create an uninitialized output head for a configuration."""
    if config.quantize_head:
        return EightBitHead(config.vocab_size, config.hidden_size)
    return LinearHead(config.hidden_size, config.vocab_size, bias=False)


def require_eight_bit_weights(module: nn.Module) -> None:
    """Reject a checkpoint without an 8-bit embedding or head, which transformers would initialize randomly.

    Raises:
        UnsupportedError: The checkpoint has no 8-bit embedding or head.
    """
    if isinstance(module, EightBitMatrix) and not module.scale.is_meta:
        raise UnsupportedError(
            "quantize_head is true, but the checkpoint has no 8-bit head: quantize it with "
            "QuantizationOptions(quantize_head=True), or load it with load_model(..., quantize_head=True)"
        )
