"""Computes the training loss in chunks of positions, so that the logits of all positions never exist at once.

The gradients are computed together with the loss, while the logits of a chunk exist. The backward pass then only scales
them; it needs neither the logits nor the weight of the head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED_LABEL = -100
MIN_NORM = 1e-12  # as in Baichuan 2's published code, which uses torch.nn.functional.normalize
# Maximum number of logits per chunk: small compared with the weights, but enough to keep a GPU busy.
MAX_LOGITS_PER_CHUNK = {"cpu": 2**24, "cuda": 2**27}
WEIGHTS_PER_CHUNK = 2**22  # number of weight elements to process at a time


class LossTargets:
    """Labels and loss weights of the positions for which an output head computes the loss.

    This is not a dataclass, because FSDP with mixed precision rounds the tensors in dataclasses to bfloat16.

    Attributes:
        labels: Next token of each position, [positions]; -100 for positions that are not trained on.
        scale: Weight of the cross entropy of each labelled position, a scalar.
        z_scale: Weight of the squared largest logit of each position, a scalar; None for no z-loss.
    """

    __slots__ = ("labels", "scale", "z_scale")

    def __init__(self, labels: Tensor, scale: Tensor, z_scale: Tensor | None = None) -> None:
        self.labels = labels
        self.scale = scale
        self.z_scale = z_scale

    def get_chunk(self, positions: slice) -> "LossTargets":
        """Return the targets of a slice of the positions."""
        return LossTargets(self.labels[positions], self.scale, self.z_scale)


def select_positions(
    hidden_states: Tensor,
    labels: Tensor,
    *,
    items_in_batch: Tensor | int | None,
    z_loss_weight: float,
) -> tuple[Tensor, LossTargets]:
    """Return the hidden states [positions, hidden] that contribute to the loss, and their targets.

    Args:
        hidden_states: [batch, seq, hidden].
        labels: [batch, seq], already shifted: the label of a position is the token that follows it.
        items_in_batch: Number of labelled positions in all batches of an optimizer step; None if there is only one.
        z_loss_weight: Weight of the z-loss, the mean squared largest logit of all positions, labelled or not.
    """
    labels = labels.to(hidden_states.device)
    labelled = labels != IGNORED_LABEL
    count = labelled.sum()
    items = count if items_in_batch is None else torch.as_tensor(items_in_batch, device=labels.device)
    scale = 1 / items.float()
    if not z_loss_weight:
        return hidden_states[labelled], LossTargets(labels[labelled], scale)
    z_scale = z_loss_weight * count * scale / labels.numel()
    return hidden_states.flatten(0, -2), LossTargets(labels.flatten(), scale, z_scale)


def iterate_chunks(positions: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of positions, at least one, with at most `MAX_LOGITS_PER_CHUNK` logits each."""
    step = max(MAX_LOGITS_PER_CHUNK.get(device.type, MAX_LOGITS_PER_CHUNK["cuda"]) // vocabulary, 1)
    for start in range(0, max(positions, 1), step):
        yield slice(start, start + step)


class LinearHead(nn.Linear):
    """Plain output head that returns the loss instead of logits if it is called with targets.

    The loss is computed inside the layer's `forward`, because hooks of FSDP and ZeRO-3 gather the weight only there.
    """

    def forward(self, hidden_states: Tensor, targets: LossTargets | None = None, *, normalized: bool = False) -> Tensor:
        """Return the logits [..., vocab] of hidden states [..., hidden], or the loss of [positions, hidden].

        Args:
            hidden_states: Hidden states in any dtype that `nn.Linear` accepts.
            targets: Targets of the positions; None to return logits instead of the loss.
            normalized: Whether to compute the loss with rows of L2 norm 1; logits are not affected.
        """
        if targets is None:
            return super().forward(hidden_states)
        return compute_linear_loss(hidden_states, self.weight, targets, normalized=normalized)


def compute_logits_loss(logits: Tensor, targets: LossTargets) -> Tensor:
    """Return the loss of logits [positions, vocab], differentiable by autograd."""
    losses = torch.nn.functional.cross_entropy(
        logits.float(), targets.labels, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    loss = losses * targets.scale
    if targets.z_scale is not None:
        loss = loss + targets.z_scale * logits.float().amax(dim=-1).square().sum()
    return loss


def compute_linear_loss(hidden_states: Tensor, weight: Tensor, targets: LossTargets, *, normalized: bool) -> Tensor:
    """Return the loss of `hidden_states @ weight.T`, which can be differentiated once.

    Args:
        hidden_states: [positions, hidden].
        weight: [vocab, hidden]; its gradient is computed only if it requires one.
        targets: Targets of the positions.
        normalized: Whether rows of `weight` are first divided by their L2 norm.
    """
    dtype = weight.dtype
    if torch.is_autocast_enabled(device := hidden_states.device.type):
        dtype = torch.get_autocast_dtype(device)
    needed = torch.is_grad_enabled() and hidden_states.requires_grad, torch.is_grad_enabled() and weight.requires_grad
    with torch.autocast(device, enabled=False):
        loss: Tensor = _LinearLoss.apply(hidden_states, weight, targets, normalized, dtype, needed)
    return loss


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        targets: LossTargets,
        normalized: bool,
        dtype: torch.dtype,
        needed: tuple[bool, bool],
    ) -> Tensor:
        cast_states = hidden_states.to(dtype)
        matrix = weight.to(dtype)
        norms = _compute_row_norms(weight) if normalized else None
        hidden_gradient = torch.empty_like(hidden_states) if needed[0] else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        for positions in iterate_chunks(len(hidden_states), len(weight), hidden_states.device):
            part = cast_states[positions]
            logits = (part @ matrix.T).float()
            if norms is not None:
                logits.div_(norms)
            loss += _compute_loss_and_gradient(logits, targets.get_chunk(positions), needs_gradient=any(needed))
            if norms is not None and any(needed):
                logits.div_(norms)
            gradient = logits.to(dtype)
            del logits
            if hidden_gradient is not None:
                hidden_gradient[positions] = gradient @ matrix
            if weight_gradient is not None:
                _add_product(weight_gradient, gradient, part)
            del gradient  # otherwise it would stay in memory alongside the next chunk's logits
        if weight_gradient is not None and norms is not None:
            _project_out_rows(weight_gradient, weight, norms)
        ctx.gradients = (hidden_gradient, None if weight_gradient is None else weight_gradient.to(weight.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("this loss was already differentiated: run the forward pass again before backward()")
        # Drop our reference, so that autograd uses the gradient of the weight as `weight.grad` without copying it.
        hidden_gradient, weight_gradient = ctx.gradients
        ctx.gradients = None
        return (
            None if hidden_gradient is None else hidden_gradient.mul_(gradient),
            None if weight_gradient is None else weight_gradient.mul_(gradient),
            *[None] * 4,
        )


def _compute_loss_and_gradient(logits: Tensor, targets: LossTargets, *, needs_gradient: bool) -> Tensor:
    """Return the loss of float32 logits [positions, vocab], and overwrite the logits with the gradient if needed."""
    labelled = (targets.labels != IGNORED_LABEL)[:, None]
    tokens = targets.labels.clamp(min=0)[:, None]
    predicted = logits.gather(-1, tokens)
    largest = logits.amax(dim=-1, keepdim=True)
    tied = logits == largest if targets.z_scale is not None and needs_gradient else None
    total = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)
    weights = targets.scale.where(labelled, 0)  # not a product, because the scale of an empty batch is infinite
    loss = ((largest + total.log() - predicted) * weights).sum()
    if targets.labels.numel() == 0:
        loss = loss * targets.scale  # NaN, like torch's mean of an empty tensor
    if needs_gradient:
        logits.mul_(weights / total).scatter_add_(-1, tokens, -weights)
    if targets.z_scale is not None:
        loss = loss + targets.z_scale * largest.square().sum()
        if tied is not None:
            logits.addcmul_(tied, 2 * targets.z_scale * largest / tied.sum(dim=-1, keepdim=True))
    return loss


def _compute_row_norms(weight: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(weight, dim=-1, dtype=torch.float32)
    return norms.clamp(min=MIN_NORM)


def _add_product(total: Tensor, gradient: Tensor, hidden_states: Tensor) -> None:
    """Add gradientᵀ @ hidden_states to `total` [vocab, hidden], in float32."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, hidden_states)
        return
    for rows in _iterate_row_slices(total):
        total[rows] += gradient[:, rows].T @ hidden_states


def _project_out_rows(gradient: Tensor, weight: Tensor, norms: Tensor) -> None:
    """Remove each row's own direction from its gradient, because the length of a normalized row has no effect."""
    for rows in _iterate_row_slices(gradient):
        row = weight[rows].float()
        share = (row * gradient[rows]).sum(dim=-1) / norms[rows].square()
        share = share.where(norms[rows] > MIN_NORM, 0)
        gradient[rows].addcmul_(row, share[:, None], value=-1)


def _iterate_row_slices(weight: Tensor) -> Iterator[slice]:
    step = max(WEIGHTS_PER_CHUNK // weight.shape[1], 1)
    for start in range(0, len(weight), step):
        yield slice(start, start + step)
