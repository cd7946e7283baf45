"""The training loss of a chunk of positions at a time, so that logits [tokens, vocabulary] never exist at once.

The gradients are computed together with the loss, while a chunk's logits exist. The backward pass then only scales
them, and needs neither logits nor the weight of the head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED_LABEL = -100
MIN_NORM = 1e-12  # Baichuan2's modeling_baichuan.py, torch.nn.functional.normalize
# Logits of one chunk: few enough to be small next to the weights, enough to keep a GPU busy.
CHUNK_LOGITS = {"cpu": 2**24, "cuda": 2**27}
CHUNK_WEIGHTS = 2**22  # numbers of the weight that are converted or corrected at a time


class LossTargets:
    """What a head needs to return the loss of some positions instead of their logits.

    Not a dataclass: in mixed precision, FSDP would round the tensors in one to bfloat16.

    Attributes:
        labels: Next token of each position, [positions]; -100 for none.
        scale: Factor of each labelled position's cross entropy, a scalar.
        z_scale: Factor of each position's largest squared logit, a scalar; None for no z loss.
    """

    __slots__ = ("labels", "scale", "z_scale")

    def __init__(self, labels: Tensor, scale: Tensor, z_scale: Tensor | None = None) -> None:
        self.labels = labels
        self.scale = scale
        self.z_scale = z_scale

    def chunk(self, positions: slice) -> "LossTargets":
        """Return the targets of some of the positions."""
        return LossTargets(self.labels[positions], self.scale, self.z_scale)


def select_positions(
    hidden_states: Tensor,
    labels: Tensor,
    *,
    items_in_batch: Tensor | int | None,
    z_loss_weight: float,
) -> tuple[Tensor, LossTargets]:
    """Return the hidden states [positions, hidden] that have a part in the loss, and their targets.

    Args:
        hidden_states: [batch, seq, hidden].
        labels: [batch, seq], already shifted: the label of a position is the token that follows it.
        items_in_batch: Labelled positions in all batches of the optimizer's step; None for those of this one.
        z_loss_weight: Weight of the mean squared largest logit of all positions, labelled or not.
    """
    labels = labels.to(hidden_states.device)
    labelled = labels != IGNORED_LABEL
    here = labelled.sum()
    items = here if items_in_batch is None else torch.as_tensor(items_in_batch, device=labels.device)
    scale = 1 / items.float()
    if not z_loss_weight:
        return hidden_states[labelled], LossTargets(labels[labelled], scale)
    z_scale = z_loss_weight * here * scale / labels.numel()
    return hidden_states.flatten(0, -2), LossTargets(labels.flatten(), scale, z_scale)


def chunks(positions: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """Split positions so that the logits of each part stay within `CHUNK_LOGITS`; at least one part."""
    step = max(CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cuda"]) // vocabulary, 1)
    for start in range(0, max(positions, 1), step):
        yield slice(start, start + step)


class LinearHead(nn.Linear):
    """A plain output head, which returns the loss instead of logits if it is called with targets.

    The loss is computed inside the layer's forward, where hooks of FSDP and ZeRO-3 have gathered the weight.
    """

    def forward(self, hidden_states: Tensor, targets: LossTargets | None = None, *, normalised: bool = False) -> Tensor:
        """Return logits [..., vocab] of hidden states [..., hidden], or the loss of [positions, hidden].

        Args:
            hidden_states: In any dtype that `nn.Linear` takes.
            targets: Of the positions, to get their loss.
            normalised: Whether the loss is that of rows with L2 norm 1; logits are those of the rows as they are.
        """
        if targets is None:
            return super().forward(hidden_states)
        return linear_loss(hidden_states, self.weight, targets, normalised=normalised)


def logits_loss(logits: Tensor, targets: LossTargets) -> Tensor:
    """Return the loss of logits [positions, vocab], by operations that autograd knows."""
    losses = torch.nn.functional.cross_entropy(
        logits.float(), targets.labels, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    loss = losses * targets.scale
    if targets.z_scale is not None:
        loss = loss + targets.z_scale * logits.float().amax(dim=-1).square().sum()
    return loss


def linear_loss(hidden_states: Tensor, weight: Tensor, targets: LossTargets, *, normalised: bool) -> Tensor:
    """Return the loss of `hidden_states @ weight.T`, differentiable once in both.

    Args:
        hidden_states: [positions, hidden].
        weight: [vocab, hidden]; gets a gradient only if it requires one.
        targets: Of these positions.
        normalised: Whether rows of `weight` are divided by their L2 norm first.
    """
    dtype = weight.dtype
    if torch.is_autocast_enabled(device := hidden_states.device.type):
        dtype = torch.get_autocast_dtype(device)
    needed = torch.is_grad_enabled() and hidden_states.requires_grad, torch.is_grad_enabled() and weight.requires_grad
    with torch.autocast(device, enabled=False):
        loss: Tensor = _LinearLoss.apply(hidden_states, weight, targets, normalised, dtype, needed)
    return loss


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        targets: LossTargets,
        normalised: bool,
        dtype: torch.dtype,
        needed: tuple[bool, bool],
    ) -> Tensor:
        computed = hidden_states.to(dtype)
        matrix = weight.to(dtype)
        norms = _row_norms(weight) if normalised else None
        of_hidden = torch.empty_like(hidden_states) if needed[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        for positions in chunks(len(hidden_states), len(weight), hidden_states.device):
            part = computed[positions]
            logits = (part @ matrix.T).float()
            if norms is not None:
                logits.div_(norms)
            loss += _differentiate(logits, targets.chunk(positions), wanted=any(needed))
            if norms is not None and any(needed):
                logits.div_(norms)
            gradient = logits.to(dtype)
            del logits
            if of_hidden is not None:
                of_hidden[positions] = gradient @ matrix
            if of_weight is not None:
                _add_product(of_weight, gradient, part)
            del gradient  # or it would still exist next to the logits of the next chunk
        if of_weight is not None and norms is not None:
            _remove_own_direction(of_weight, weight, norms)
        ctx.gradients = (of_hidden, None if of_weight is None else of_weight.to(weight.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("this loss was already differentiated: run the forward pass again before backward()")
        # Given away, so that the gradient of the weight becomes `weight.grad` without a copy.
        of_hidden, of_weight = ctx.gradients
        ctx.gradients = None
        return (
            None if of_hidden is None else of_hidden.mul_(gradient),
            None if of_weight is None else of_weight.mul_(gradient),
            *[None] * 4,
        )


def _differentiate(logits: Tensor, targets: LossTargets, *, wanted: bool) -> Tensor:
    """Return the loss of float32 logits [positions, vocab], and put its gradient in their place if it is wanted."""
    labelled = (targets.labels != IGNORED_LABEL)[:, None]
    tokens = targets.labels.clamp(min=0)[:, None]
    predicted = logits.gather(-1, tokens)
    largest = logits.amax(dim=-1, keepdim=True)
    tied = logits == largest if targets.z_scale is not None and wanted else None
    total = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)
    weights = targets.scale.where(labelled, 0)  # not a product: an empty batch has an infinite scale
    loss = ((largest + total.log() - predicted) * weights).sum()
    if targets.labels.numel() == 0:
        loss = loss * targets.scale  # NaN, like torch's mean over nothing
    if wanted:
        logits.mul_(weights / total).scatter_add_(-1, tokens, -weights)
    if targets.z_scale is not None:
        loss = loss + targets.z_scale * largest.square().sum()
        if tied is not None:
            logits.addcmul_(tied, 2 * targets.z_scale * largest / tied.sum(dim=-1, keepdim=True))
    return loss


def _row_norms(weight: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(weight, dim=-1, dtype=torch.float32)
    return norms.clamp(min=MIN_NORM)


def _add_product(total: Tensor, gradient: Tensor, hidden_states: Tensor) -> None:
    """Add gradientᵀ @ hidden_states to `total` [vocab, hidden], in float32."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, hidden_states)
        return
    for rows in _row_slices(total):
        total[rows] += gradient[:, rows].T @ hidden_states


def _remove_own_direction(gradient: Tensor, weight: Tensor, norms: Tensor) -> None:
    """Project each row's own direction out of its gradient: the length of a normalised row changes nothing."""
    for rows in _row_slices(gradient):
        row = weight[rows].float()
        share = (row * gradient[rows]).sum(dim=-1) / norms[rows].square()
        share = share.where(norms[rows] > MIN_NORM, 0)
        gradient[rows].addcmul_(row, share[:, None], value=-1)


def _row_slices(weight: Tensor) -> Iterator[slice]:
    step = max(CHUNK_WEIGHTS // weight.shape[1], 1)
    for start in range(0, len(weight), step):
        yield slice(start, start + step)
