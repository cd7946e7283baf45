"""The normalised output head (NormHead) of Baichuan 2, for whatever layer stands at `lm_head`."""

import weakref
from typing import TypeGuard

import torch
from torch import Tensor, nn

SMALLEST_NORM = 1e-12  # Baichuan2's modeling_baichuan.py, torch.nn.functional.normalize
PROBE_ROWS = 256


class HeadNorms:
    """L2 norms of the rows of an output head, in float32.

    Logits over row norms are the logits of a head with rows of norm 1, so the parameter is never copied or
    changed, which ZeRO-3 and continued training rely on. Norms that need no gradient are kept until a tensor
    of the head changes or training goes on. Writes through `.data` (moving averages, some optimizers) show in
    no version counter, so the norms of a plain weight are kept only from one decoding step to the next.
    """

    def __init__(self) -> None:
        self._norms: Tensor | None = None
        self._seen: list[tuple[weakref.ref[Tensor], int, int]] = []

    def __reduce__(self) -> tuple[type["HeadNorms"], tuple[()]]:
        """A copied or pickled model computes its norms again."""
        return HeadNorms, ()

    def of(self, head: nn.Module, *, decoding: bool) -> Tensor:
        """Norms [vocab] of `head`, differentiable where its parameters are being trained.

        Args:
            head: The layer at `lm_head`.
            decoding: Whether this is a step of one token, so that the norms of the step before serve.
        """
        tensors = [*head.parameters(), *head.buffers()]
        if torch.compiler.is_compiling():
            return row_norms(head)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            self.forget()
            return row_norms(head)
        must_renew = _is_plain(head) and not decoding
        if self._norms is None or must_renew or not self._unchanged(tensors):
            # No tensor of inference mode: a later backward pass may need the norms.
            with torch.inference_mode(False), torch.no_grad():
                self._norms = row_norms(head)
            self._seen = [(weakref.ref(tensor), tensor.data_ptr(), _version(tensor)) for tensor in tensors]
        return self._norms

    def forget(self) -> None:
        """Drop the kept norms."""
        self._norms = None

    def _unchanged(self, tensors: list[Tensor]) -> bool:
        return len(tensors) == len(self._seen) and all(
            reference() is tensor and address == tensor.data_ptr() and version == _version(tensor)
            for tensor, (reference, address, version) in zip(tensors, self._seen, strict=True)
        )


def _version(tensor: Tensor) -> int:
    """How often the tensor was written to; those of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def row_norms(head: nn.Module) -> Tensor:
    """L2 norms of the rows of any linear map without bias, float32 [vocab], never below 1e-12.

    A plain layer shows its weight. A replaced one (quantized, adapted, sharded or off-loaded) does not, so it
    is asked for its columns by running it on the unit vectors.
    """
    norms = torch.linalg.vector_norm(head.weight, dim=-1, dtype=torch.float32) if _is_plain(head) else _probe(head)
    clamped: Tensor = norms.clamp(min=SMALLEST_NORM)
    return clamped


def _is_plain(head: nn.Module) -> TypeGuard[nn.Linear]:
    weight = getattr(head, "weight", None)
    return (
        isinstance(head, nn.Linear)
        and isinstance(weight, Tensor)
        and weight.is_floating_point()
        and weight.ndim == 2  # noqa: PLR2004 - DeepSpeed leaves a flat one where it has sharded the weight
        and not weight.is_meta
    )


def _probe(head: nn.Module) -> Tensor:
    """Norms from `head` applied to the unit vectors, a slice of them at a time."""
    width = int(head.in_features)  # type: ignore[arg-type]
    reference = next((tensor for tensor in head.parameters() if tensor.is_floating_point()), None)
    dtype = reference.dtype if reference is not None else torch.float32
    device = next(head.parameters()).device
    units = torch.eye(width, dtype=dtype, device=None if device.type == "meta" else device)
    squares = [head(rows).float().square().sum(dim=0) for rows in units.split(PROBE_ROWS)]
    return torch.stack(squares).sum(dim=0).sqrt()
