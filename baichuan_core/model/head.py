"""The normalized output head (NormHead) of Baichuan 2, for any kind of layer at `lm_head`."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .chunked_loss import MIN_NORM, LinearHead, LossTargets, compute_logits_loss, iterate_chunks
from .eight_bit_embedding_and_head import EightBitHead
from .prepacked import PrepackedHead

UNIT_VECTORS_PER_PASS = 256
POSITIONS_PER_SLICE = 8  # their float32 copies fit into a CPU's cache
COMPARED_COLUMNS = 16  # one cache line per row


def compute_head_loss(
    head: nn.Module, hidden_states: Tensor, targets: LossTargets, *, vocabulary: int, norms: "HeadNormCache | None"
) -> Tensor:
    """Return the loss of hidden states [positions, hidden], computing the logits in chunks.

    Args:
        head: The layer at `lm_head`. If it is not a plain `LinearHead` (e.g. an 8-bit head), logits are computed twice.
        hidden_states: Hidden states of the positions that contribute to the loss.
        targets: Targets of the same positions.
        vocabulary: Number of rows of the head.
        norms: Norms of the head; None if it is not normalized.
    """
    if isinstance(head, LinearHead):
        if norms is not None:
            norms.clear()
        loss: Tensor = head(hidden_states, targets, normalized=norms is not None)
        return loss
    if norms is None:
        logits: Callable[[Tensor], Tensor] = head
    elif _is_sharded(head):
        logits = partial(_compute_logits_while_gathered, head)
    else:
        logits = partial(_compute_normalized_logits, head, norms.get(head, decoding=False))
    parts = [
        checkpoint(
            _compute_chunk_loss, logits, hidden_states[positions], targets.get_chunk(positions), use_reentrant=False
        )
        for positions in iterate_chunks(len(hidden_states), vocabulary, hidden_states.device)
    ]
    return torch.stack(parts).sum()


def _compute_chunk_loss(logits: Callable[[Tensor], Tensor], hidden_states: Tensor, targets: LossTargets) -> Tensor:
    return compute_logits_loss(logits(hidden_states), targets)


def _compute_normalized_logits(head: nn.Module, norms: Tensor, hidden_states: Tensor) -> Tensor:
    return _divide_by_norms(head(hidden_states), norms)


class HeadNormCache:
    """Cache of the L2 norms of the rows of an output head, in float32.

    Dividing logits by the row norms gives the logits of a head with rows of norm 1. The parameter itself is never
    copied or changed, which ZeRO-3 and continued training rely on. Norms that need no gradient are kept until a tensor
    of the head changes or training continues. Writes through `.data` (moving averages, some optimizers) do not change
    the version counter of a tensor, so a few columns of a plain weight are compared too, except in decoding steps. A
    compiled decoding step uses the norms kept by the last uncompiled call; other compiled calls compute their own.
    """

    def __init__(self) -> None:
        self._norms: Tensor | None = None
        self._columns: Tensor | None = None
        self._seen_tensors: list[tuple[weakref.ref[Tensor], int, int]] = []

    def __reduce__(self) -> tuple[type["HeadNormCache"], tuple[()]]:
        """Copy or pickle without the norms, so that a copied model recomputes them."""
        return HeadNormCache, ()

    def compute_logits(self, head: nn.Module, hidden_states: Tensor, *, decoding: bool) -> Tensor:
        """Return the logits of `head` as if its rows had norm 1.

        Args:
            head: The layer at `lm_head`.
            hidden_states: [..., hidden].
            decoding: Whether this is a step of one token, so that the norms of the previous step can be reused.
        """
        if _is_sharded(head):
            return _compute_logits_while_gathered(head, hidden_states)
        return _divide_by_norms(head(hidden_states), self.get(head, decoding=decoding))

    def get(self, head: nn.Module, *, decoding: bool) -> Tensor:
        """Return the norms [vocab] of `head`, differentiable if its parameters are trained."""
        tensors = [*head.parameters(), *head.buffers()]
        trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if torch.compiler.is_compiling():
            return row_norms(head) if trained or not decoding or self._norms is None else self._norms
        if trained:
            self.clear()
            return row_norms(head)
        if self._norms is None or not self._is_unchanged(head, tensors, decoding):
            # Leave inference mode, because a later backward pass may need the norms.
            with torch.inference_mode(False), torch.no_grad():
                self._norms = row_norms(head)
                self._columns = _copy_columns(head)
            self._seen_tensors = [(weakref.ref(tensor), tensor.data_ptr(), _get_version(tensor)) for tensor in tensors]
        return self._norms

    def clear(self) -> None:
        """Drop the cached norms."""
        self._norms = None

    def _is_unchanged(self, head: nn.Module, tensors: list[Tensor], decoding: bool) -> bool:
        if len(tensors) != len(self._seen_tensors) or not all(
            reference() is tensor and address == tensor.data_ptr() and version == _get_version(tensor)
            for tensor, (reference, address, version) in zip(tensors, self._seen_tensors, strict=True)
        ):
            return False
        if decoding or self._columns is None:
            return True
        columns = _copy_columns(head)
        return columns is not None and torch.equal(columns, self._columns)


def _copy_columns(head: nn.Module) -> Tensor | None:
    """Copy the first columns of the head's weight; return None if the head has no plain weight."""
    return head.weight[:, :COMPARED_COLUMNS].clone() if _has_plain_weight(head) else None


def _divide_by_norms(logits: Tensor, norms: Tensor) -> Tensor:
    """Divide logits [..., vocab] by norms [vocab] in float32; in place if no backward pass needs the logits."""
    norms = norms.to(logits.device)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not logits.is_contiguous():
        return (logits / norms).to(logits.dtype)
    positions = logits.view(-1, logits.shape[-1])
    # On CPUs, operands of different dtypes are copied to float32. Small slices keep the copies in the cache.
    for part in positions.split(POSITIONS_PER_SLICE) if logits.device.type == "cpu" else (positions,):
        part.div_(norms)
    return logits


def _is_sharded(head: nn.Module) -> bool:
    """Return whether ZeRO-3 (`ds_id`) or FSDP (flat) shards the weight, which is complete only during `forward`."""
    weight = getattr(head, "weight", None)
    if not isinstance(head, nn.Linear) or not isinstance(weight, Tensor) or not weight.is_floating_point():
        return False
    return hasattr(weight, "ds_id") or weight.ndim != 2  # noqa: PLR2004


def _compute_logits_while_gathered(head: nn.Module, hidden_states: Tensor) -> Tensor:
    """Return normalized logits of a sharded head, computing its norms before the sharding hook releases the weight."""

    def normalize(module: nn.Module, _inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return _divide_by_norms(logits, row_norms(module))

    hook = head.register_forward_hook(normalize, prepend=True)
    try:
        logits: Tensor = head(hidden_states)
    finally:
        hook.remove()
    return logits


def _get_version(tensor: Tensor) -> int:
    """Return the version counter of a tensor, which counts writes; inference tensors do not have one."""
    return 0 if tensor.is_inference() else tensor._version


def row_norms(head: nn.Module) -> Tensor:
    """Return the L2 norms of the rows of any linear layer without bias, float32 [vocab], at least 1e-12.

    They are computed from the weight of a plain layer or the codes of an 8-bit one. The weight of any other layer
    (quantized, adapted, sharded or offloaded) is not accessible, so the layer is run on the unit vectors, which
    returns its columns.
    """
    if isinstance(head, EightBitHead | PrepackedHead):
        norms = head.row_norms()
    elif _has_plain_weight(head):
        exact = torch.promote_types(head.weight.dtype, torch.float32)
        norms = torch.linalg.vector_norm(head.weight, dim=-1, dtype=exact)
    else:
        norms = _compute_norms_by_forward(head)
    clamped: Tensor = norms.clamp(min=MIN_NORM)
    return clamped


def _has_plain_weight(head: nn.Module) -> TypeGuard[nn.Linear]:
    weight = getattr(head, "weight", None)
    return (
        isinstance(head, nn.Linear)
        and isinstance(weight, Tensor)
        and weight.is_floating_point()
        and weight.ndim == 2  # noqa: PLR2004
        and not weight.is_meta
    )


def _compute_norms_by_forward(head: nn.Module) -> Tensor:
    """Compute the norms by running `head` on the unit vectors, a slice of them at a time."""
    width = int(head.in_features)  # type: ignore[arg-type]
    reference = next((tensor for tensor in head.parameters() if tensor.is_floating_point()), None)
    dtype = reference.dtype if reference is not None else torch.float32
    device = next(head.parameters()).device
    units = torch.eye(width, dtype=dtype, device=None if device.type == "meta" else device)
    squares = [head(rows).float().square().sum(dim=0) for rows in units.split(UNIT_VECTORS_PER_PASS)]
    return torch.stack(squares).sum(dim=0).sqrt()
