"""The normalised output head (NormHead) of Baichuan 2, for whatever layer stands at `lm_head`."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .chunked_loss import MIN_NORM, LinearHead, LossTargets, chunks, logits_loss
from .eight_bit_ends import EightBitHead
from .prepacked import PrepackedHead

PROBE_ROWS = 256
POSITIONS_DIVIDED = 8
COLUMNS_COMPARED = 16  # one cache line a row


def head_loss(
    head: nn.Module, hidden_states: Tensor, targets: LossTargets, *, vocabulary: int, norms: "HeadNorms | None"
) -> Tensor:
    """Return the loss of hidden states [positions, hidden], with the logits of a chunk of them at a time.

    Args:
        head: The layer at `lm_head`. One that is not plain (adapted, in 8 bits) computes its logits twice.
        hidden_states: Of the positions that have a part in the loss.
        targets: Of the same positions.
        vocabulary: Rows of the head.
        norms: Of the head; None if it is not normalised.
    """
    if isinstance(head, LinearHead):
        if norms is not None:
            norms.forget()
        loss: Tensor = head(hidden_states, targets, normalised=norms is not None)
        return loss
    if norms is None:
        logits: Callable[[Tensor], Tensor] = head
    elif _is_sharded(head):
        logits = partial(_logits_while_gathered, head)
    else:
        logits = partial(_normalised_logits, head, norms.of(head, decoding=False))
    parts = [
        checkpoint(_chunk_loss, logits, hidden_states[positions], targets.chunk(positions), use_reentrant=False)
        for positions in chunks(len(hidden_states), vocabulary, hidden_states.device)
    ]
    return torch.stack(parts).sum()


def _chunk_loss(logits: Callable[[Tensor], Tensor], hidden_states: Tensor, targets: LossTargets) -> Tensor:
    return logits_loss(logits(hidden_states), targets)


def _normalised_logits(head: nn.Module, norms: Tensor, hidden_states: Tensor) -> Tensor:
    return _divided(head(hidden_states), norms)


class HeadNorms:
    """L2 norms of the rows of an output head, in float32.

    Logits over row norms are the logits of a head with rows of norm 1, so the parameter is never copied or
    changed, which ZeRO-3 and continued training rely on. Norms that need no gradient are kept until a tensor
    of the head changes or training goes on. Writes through `.data` (moving averages, some optimizers) show in
    no version counter, so a few columns of a plain weight are compared too, but for decoding steps.
    A compiled decoding step reads what the last call outside of it has kept; other compiled calls compute their own.
    """

    def __init__(self) -> None:
        self._norms: Tensor | None = None
        self._columns: Tensor | None = None
        self._seen: list[tuple[weakref.ref[Tensor], int, int]] = []

    def __reduce__(self) -> tuple[type["HeadNorms"], tuple[()]]:
        """A copied or pickled model computes its norms again."""
        return HeadNorms, ()

    def logits(self, head: nn.Module, hidden_states: Tensor, *, decoding: bool) -> Tensor:
        """`head` with rows of norm 1, applied to hidden states [..., hidden].

        Args:
            head: The layer at `lm_head`.
            hidden_states: [..., hidden].
            decoding: Whether this is a step of one token, so that the norms of the step before serve.
        """
        if _is_sharded(head):
            return _logits_while_gathered(head, hidden_states)
        return _divided(head(hidden_states), self.of(head, decoding=decoding))

    def of(self, head: nn.Module, *, decoding: bool) -> Tensor:
        """Norms [vocab] of `head`, differentiable where its parameters are being trained."""
        tensors = [*head.parameters(), *head.buffers()]
        trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if torch.compiler.is_compiling():
            return row_norms(head) if trained or not decoding or self._norms is None else self._norms
        if trained:
            self.forget()
            return row_norms(head)
        if self._norms is None or not self._unchanged(head, tensors, decoding):
            # No tensor of inference mode: a later backward pass may need the norms.
            with torch.inference_mode(False), torch.no_grad():
                self._norms = row_norms(head)
                self._columns = _columns(head)
            self._seen = [(weakref.ref(tensor), tensor.data_ptr(), _version(tensor)) for tensor in tensors]
        return self._norms

    def forget(self) -> None:
        """Drop the kept norms."""
        self._norms = None

    def _unchanged(self, head: nn.Module, tensors: list[Tensor], decoding: bool) -> bool:
        if len(tensors) != len(self._seen) or not all(
            reference() is tensor and address == tensor.data_ptr() and version == _version(tensor)
            for tensor, (reference, address, version) in zip(tensors, self._seen, strict=True)
        ):
            return False
        if decoding or self._columns is None:
            return True
        columns = _columns(head)
        return columns is not None and torch.equal(columns, self._columns)


def _columns(head: nn.Module) -> Tensor | None:
    """A copy of some elements of every row of a plain weight."""
    return head.weight[:, :COLUMNS_COMPARED].clone() if _is_plain(head) else None


def _divided(logits: Tensor, norms: Tensor) -> Tensor:
    """Logits [..., vocab] over norms [vocab], computed in float32; in place where nobody looks back at the logits."""
    norms = norms.to(logits.device)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not logits.is_contiguous():
        return (logits / norms).to(logits.dtype)
    positions = logits.view(-1, logits.shape[-1])
    # CPUs make float32 copies of mixed operands: of little at a time, so that they stay in the cache.
    for part in positions.split(POSITIONS_DIVIDED) if logits.device.type == "cpu" else (positions,):
        part.div_(norms)
    return logits


def _is_sharded(head: nn.Module) -> bool:
    """Whether the weight is whole only while the layer runs: ZeRO-3 leaves a mark, other sharding a flat part."""
    weight = getattr(head, "weight", None)
    if not isinstance(head, nn.Linear) or not isinstance(weight, Tensor) or not weight.is_floating_point():
        return False
    return hasattr(weight, "ds_id") or weight.ndim != 2  # noqa: PLR2004


def _logits_while_gathered(head: nn.Module, hidden_states: Tensor) -> Tensor:
    """Logits of a sharded head, normalised before the hook that lets go of the weight."""

    def normalise(module: nn.Module, _inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return _divided(logits, row_norms(module))

    hook = head.register_forward_hook(normalise, prepend=True)
    try:
        logits: Tensor = head(hidden_states)
    finally:
        hook.remove()
    return logits


def _version(tensor: Tensor) -> int:
    """How often the tensor was written to; those of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def row_norms(head: nn.Module) -> Tensor:
    """L2 norms of the rows of any linear map without bias, float32 [vocab], never below 1e-12.

    A plain layer shows its weight, an 8-bit one its codes. One replaced otherwise (quantized, adapted, sharded or
    off-loaded) does not, so it is asked for its columns by running it on the unit vectors.
    """
    if isinstance(head, EightBitHead | PrepackedHead):
        norms = head.row_norms()
    elif _is_plain(head):
        exact = torch.promote_types(head.weight.dtype, torch.float32)
        norms = torch.linalg.vector_norm(head.weight, dim=-1, dtype=exact)
    else:
        norms = _probe(head)
    clamped: Tensor = norms.clamp(min=MIN_NORM)
    return clamped


def _is_plain(head: nn.Module) -> TypeGuard[nn.Linear]:
    weight = getattr(head, "weight", None)
    return (
        isinstance(head, nn.Linear)
        and isinstance(weight, Tensor)
        and weight.is_floating_point()
        and weight.ndim == 2  # noqa: PLR2004
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
