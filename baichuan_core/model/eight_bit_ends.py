"""The embedding and the output head at 8 bits: for Baichuan 2 they hold the memory that 4-bit blocks leave."""

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import UnsupportedError

from .chunked_loss import LinearHead
from .eight_bits import LARGEST_CODE, quantize_rows

# Codes made floats at a time: little enough for a CPU's cache, enough to keep a GPU busy.
CODES_AT_ONCE = {"cpu": 2**22, "cuda": 2**26}


class EightBitRows(nn.Module):
    """A frozen matrix [rows, width]: `weight` holds its codes, `scale` what one step of a row is worth.

    Both are buffers, so that optimizers and dtype casts pass them by and `model.dtype` is that of the rest.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(rows, width, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(rows, dtype=torch.float32))
        self.weight: Tensor
        self.scale: Tensor
        self.dtype = torch.get_default_dtype()

    @classmethod
    def of(cls, dense: Tensor) -> Self:
        """The 8-bit form of a matrix [rows, width]; results have its dtype."""
        with torch.device("meta"):
            table = cls(*dense.shape)
        table.weight, table.scale = eight_bit_rows(dense)
        table.dtype = dense.dtype
        return table

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves with the model; the scale stays float32 whatever the model is cast to."""
        exact = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scale.dtype != torch.float32:
            self.scale = exact.to(self.scale.device)
        return self


class EightBitEmbedding(EightBitRows):
    """Stands where `nn.Embedding` stood."""

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] to rows [..., width]."""
        return (self.weight[ids] * self.scale[ids][..., None]).to(self.dtype)


class EightBitHead(EightBitRows):
    """Stands where the `nn.Linear` without bias stood."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., width] to [..., rows] in the same dtype; differentiable in `hidden_states`."""
        product: Tensor = _RowProduct.apply(hidden_states, self.weight, self.scale)
        return product

    def row_norms(self) -> Tensor:
        """L2 norms of the rows, float32 [rows]."""
        norms = [torch.linalg.vector_norm(rows, dim=1) for _, rows in _slices(self.weight, torch.float32)]
        return torch.cat(norms) * self.scale


def eight_bit_rows(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [rows, width] and steps float32 [rows], whose product stands for the matrix."""
    codes, largest = quantize_rows(dense)
    return codes, largest / LARGEST_CODE


class _RowProduct(torch.autograd.Function):
    """hidden_states @ (weight * scale)ᵀ, with a slice of the matrix as floats at a time, backwards too."""

    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        x = hidden_states.to(_computing(hidden_states.dtype))
        product = hidden_states.new_empty((*x.shape[:-1], len(weight)))
        for rows, codes in _slices(weight, x.dtype):
            product[..., rows] = (x @ codes.T) * scale[rows]
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        dtype = _computing(gradient.dtype)
        total = gradient.new_zeros((*gradient.shape[:-1], weight.shape[1]), dtype=torch.float32)
        for rows, codes in _slices(weight, dtype):
            total += (gradient[..., rows] * scale[rows]).to(dtype) @ codes
        return total.to(gradient.dtype), None, None


def _computing(dtype: torch.dtype) -> torch.dtype:
    """A product with codes of up to 127 is too large for float16."""
    return torch.float32 if dtype == torch.float16 else dtype


def _slices(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Rows of codes as floats; bfloat16 holds every code exactly."""
    step = max(CODES_AT_ONCE.get(weight.device.type, CODES_AT_ONCE["cuda"]) // weight.shape[1], 1)
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        yield rows, weight[rows].to(dtype)


def token_embedding(config: BaichuanConfig) -> nn.Module:
    """The empty embedding that a configuration asks for."""
    if config.quantize_head:
        return EightBitEmbedding(config.vocab_size, config.hidden_size)
    return nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)


def output_head(config: BaichuanConfig) -> nn.Module:
    """The empty head that a configuration asks for."""
    if config.quantize_head:
        return EightBitHead(config.vocab_size, config.hidden_size)
    return LinearHead(config.hidden_size, config.vocab_size, bias=False)


def require_codes(module: nn.Module) -> None:
    """Refuse to fill 8-bit rows with random numbers, which is what transformers does with missing tensors.

    Raises:
        UnsupportedError: The checkpoint has none.
    """
    if isinstance(module, EightBitRows) and not module.scale.is_meta:
        raise UnsupportedError(
            "quantize_head is true and the weights hold no 8-bit head: write them with "
            "QuantizationOptions(quantize_head=True), or load them with load_model(..., quantize_head=True)"
        )
