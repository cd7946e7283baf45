"""Comparison of the next-token predictions of two models on the same text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.errors import InsufficientMemoryError, MemoryOccupiedError, UnsupportedError
from baichuan_core.free_memory import free_bytes, total_bytes
from baichuan_core.memory import format_gib
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

from .head import OutputHead
from .passes import BATCH_TOKENS, compute_hidden_states
from .scoring import check_token_ids, perplexity_from_log_likelihood
from .windows import Window


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """The parts of a reference model needed for comparison: its output head and final hidden states.

    The model itself can be released, so that only one model is in memory at a time.

    Attributes:
        head: Output head of the reference model.
        states: For each window, the hidden states that predict its scored tokens, float [scored tokens, hidden] on the
            CPU.
        windows: The text, as windows of tokens.
        vocab_size: Size of the vocabulary.
    """

    head: OutputHead
    states: list[Tensor]
    windows: list[Window]
    vocab_size: int


@dataclass(frozen=True, slots=True)
class PredictionComparison:
    """Comparison of a model with a reference model on one text.

    Attributes:
        kl_divergence: Mean of KL(reference || model) over the scored positions, in nats per token.
        top_1_agreement: Fraction of positions at which both models agree on the most likely token.
        reference_perplexity: Perplexity of the reference: exp of its mean negative log-likelihood.
        perplexity: Perplexity of the model.
        tokens: Number of scored tokens.
    """

    kl_divergence: float
    top_1_agreement: float
    reference_perplexity: float
    perplexity: float
    tokens: int


def run_reference(
    model: BaichuanForCausalLM,
    windows: Sequence[Window],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> ReferenceRun:
    """Run the reference model and keep the parts needed for comparisons.

    Raises:
        DatasetError: A window has a token id that is not in the model's vocabulary.
        InsufficientMemoryError: The hidden states of the text do not fit in host memory.
    """
    sequences = [window.token_ids for window in windows]
    check_token_ids(model, sequences, shortest=2)
    _require_memory(model, windows)
    states: dict[int, Tensor] = {}
    for index, row in compute_hidden_states(model, sequences, batch_tokens=batch_tokens):
        states[index] = row[windows[index].first_scored - 1 : -1].to("cpu", copy=True)
        on_progress(Progress(len(states) / len(windows), "scoring"))
    ordered = [states[index] for index in range(len(windows))]
    return ReferenceRun(OutputHead(model), ordered, list(windows), model.config.vocab_size)


def compare_with_reference(
    reference: ReferenceRun,
    model: BaichuanForCausalLM,
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> PredictionComparison:
    """Compare the next-token distributions of a model with those of a reference, on the reference's text.

    Raises the same errors as `compare_windows`.
    """
    sums = _sum_metrics_per_window(reference, model, batch_tokens, on_progress)
    return _build_comparison(torch.stack(sums).sum(dim=0), sum(len(states) for states in reference.states))


def compare_windows(
    reference: ReferenceRun,
    model: BaichuanForCausalLM,
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> list[PredictionComparison]:
    """Compare as `compare_with_reference` does, but return one comparison per window, in order.

    Distributions are computed in float32 for a slice of positions at a time; sums are float64.

    Raises:
        CheckpointError: One of the two models produces NaN.
        UnsupportedError: The vocabularies differ in size.
    """
    sums = _sum_metrics_per_window(reference, model, batch_tokens, on_progress)
    return [_build_comparison(row, len(states)) for row, states in zip(sums, reference.states, strict=True)]


def _require_memory(model: BaichuanForCausalLM, windows: Sequence[Window]) -> None:
    tokens = sum(len(window.token_ids) - window.first_scored for window in windows)
    needed, free = tokens * model.config.hidden_size * model.dtype.itemsize, free_bytes("cpu")
    if needed > free:
        kind = MemoryOccupiedError if needed <= total_bytes("cpu") else InsufficientMemoryError
        raise kind(
            f"the reference's hidden states for {tokens} tokens need {format_gib(needed)}, but only {format_gib(free)}"
            " are free: use a shorter text"
        )


def _sum_metrics_per_window(
    reference: ReferenceRun, model: BaichuanForCausalLM, batch_tokens: int, on_progress: ProgressCallback
) -> list[Tensor]:
    """Return the result of `_sum_metrics` for each window."""
    if model.config.vocab_size != reference.vocab_size:
        raise UnsupportedError(
            f"the models' vocabularies have {reference.vocab_size} and {model.config.vocab_size} tokens: "
            "only models with the same vocabulary can be compared"
        )
    head = OutputHead(model)
    sums: dict[int, Tensor] = {}
    sequences = [window.token_ids for window in reference.windows]
    for index, row in compute_hidden_states(model, sequences, batch_tokens=batch_tokens):
        window = reference.windows[index]
        targets = torch.tensor(window.token_ids[window.first_scored :])
        sums[index] = _sum_metrics(
            reference.head, reference.states[index], head, row[window.first_scored - 1 : -1], targets
        )
        on_progress(Progress(len(sums) / len(sequences), "scoring"))
    return [sums[index] for index in range(len(sequences))]


def _build_comparison(sums: Tensor, tokens: int) -> PredictionComparison:
    divergence, equal, reference_likelihood, model_likelihood = (sums / tokens).tolist()
    return PredictionComparison(
        divergence,
        equal,
        perplexity_from_log_likelihood(reference_likelihood),
        perplexity_from_log_likelihood(model_likelihood),
        tokens,
    )


@torch.inference_mode()
def _sum_metrics(
    reference_head: OutputHead, reference_states: Tensor, head: OutputHead, states: Tensor, targets: Tensor
) -> Tensor:
    """Return sums over positions, float64 [4]: KL divergence, equal top tokens, and both models' log-likelihoods."""
    sums = torch.zeros(4, dtype=torch.float64)
    slices = zip(
        reference_head.compute_log_probabilities(reference_states),
        head.compute_log_probabilities(states),
        targets.split(head.positions),
        strict=True,
    )
    for log_p, model_log_q, target_ids in slices:
        log_q, ids = model_log_q.to(log_p.device), target_ids.to(log_p.device)[:, None]
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
        equal = log_p.argmax(dim=-1) == log_q.argmax(dim=-1)
        columns = (divergence, equal, log_p.gather(-1, ids), log_q.gather(-1, ids))
        sums += torch.stack([column.double().sum() for column in columns]).cpu()
    return sums
