"""How far one model's predictions lie from another's on the same text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.errors import InsufficientMemoryError, MemoryOccupiedError, UnsupportedError
from baichuan_core.free_memory import free_bytes, total_bytes
from baichuan_core.memory import in_gib
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

from .head import OutputHead
from .passes import BATCH_TOKENS, hidden_states
from .scoring import check_ids, perplexity_of
from .windows import Window


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """What of a reference model is needed to compare others with it: its head and the states before it.

    The model itself can be dropped, so that only one is in memory at a time.

    Attributes:
        head: Its output head.
        states: For each window float [scored tokens, hidden] on the CPU, which predict the scored tokens.
        windows: The text.
        vocab_size: Size of the vocabulary.
    """

    head: OutputHead
    states: list[Tensor]
    windows: list[Window]
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on one text; `tokens` of it were scored.

    Attributes:
        kl_divergence: Mean of KL(reference || model) over the positions, nats a token.
        top_1_agreement: Share of the positions where both find the same token most likely.
        reference_perplexity: exp of the reference's mean negative log-likelihood.
        perplexity: That of the model.
        tokens: Scored positions.
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
    """Run the model that others shall be compared with, and keep what that takes.

    Raises:
        DatasetError: A window has a token that the model does not have.
        InsufficientMemoryError: The states of so long a text do not fit into the host's memory.
    """
    sequences = [window.token_ids for window in windows]
    check_ids(model, sequences, shortest=2)
    _require_room(model, windows)
    states: dict[int, Tensor] = {}
    for index, row in hidden_states(model, sequences, batch_tokens=batch_tokens):
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
) -> Comparison:
    """Compare the next-token distributions of a model with those of a reference, on the reference's text.

    Raises as `compare_windows`.
    """
    sums = _sums_of_windows(reference, model, batch_tokens, on_progress)
    return _comparison(torch.stack(sums).sum(dim=0), sum(len(states) for states in reference.states))


def compare_windows(
    reference: ReferenceRun,
    model: BaichuanForCausalLM,
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> list[Comparison]:
    """As `compare_with_reference`, one comparison for each window, in their order.

    Distributions exist for a slice of positions at a time, in float32; sums are float64.

    Raises:
        CheckpointError: One of the two computes NaN.
        UnsupportedError: Their vocabularies differ in size.
    """
    sums = _sums_of_windows(reference, model, batch_tokens, on_progress)
    return [_comparison(row, len(states)) for row, states in zip(sums, reference.states, strict=True)]


def _require_room(model: BaichuanForCausalLM, windows: Sequence[Window]) -> None:
    tokens = sum(len(window.token_ids) - window.first_scored for window in windows)
    needed, free = tokens * model.config.hidden_size * model.dtype.itemsize, free_bytes("cpu")
    if needed > free:
        kind = MemoryOccupiedError if needed <= total_bytes("cpu") else InsufficientMemoryError
        raise kind(
            f"the reference's hidden states for {tokens} tokens take {in_gib(needed)} and {in_gib(free)} are free: "
            "compare on a shorter text"
        )


def _sums_of_windows(
    reference: ReferenceRun, model: BaichuanForCausalLM, batch_tokens: int, on_progress: ProgressCallback
) -> list[Tensor]:
    """What `_sums` gives, for each window."""
    if model.config.vocab_size != reference.vocab_size:
        raise UnsupportedError(
            f"the models have {reference.vocab_size} and {model.config.vocab_size} tokens: only models of one "
            "vocabulary can be compared"
        )
    head = OutputHead(model)
    sums: dict[int, Tensor] = {}
    sequences = [window.token_ids for window in reference.windows]
    for index, row in hidden_states(model, sequences, batch_tokens=batch_tokens):
        window = reference.windows[index]
        targets = torch.tensor(window.token_ids[window.first_scored :])
        sums[index] = _sums(reference.head, reference.states[index], head, row[window.first_scored - 1 : -1], targets)
        on_progress(Progress(len(sums) / len(sequences), "scoring"))
    return [sums[index] for index in range(len(sequences))]


def _comparison(sums: Tensor, tokens: int) -> Comparison:
    divergence, equal, of_reference, of_model = (sums / tokens).tolist()
    return Comparison(divergence, equal, perplexity_of(of_reference), perplexity_of(of_model), tokens)


@torch.inference_mode()
def _sums(
    reference_head: OutputHead, reference_states: Tensor, head: OutputHead, states: Tensor, targets: Tensor
) -> Tensor:
    """float64 [4]: KL, equal greedy tokens and both log-likelihoods, summed over the positions."""
    sums = torch.zeros(4, dtype=torch.float64)
    slices = zip(
        reference_head.log_probabilities(reference_states),
        head.log_probabilities(states),
        targets.split(head.positions),
        strict=True,
    )
    for log_p, log_q_there, ids_there in slices:
        log_q, ids = log_q_there.to(log_p.device), ids_there.to(log_p.device)[:, None]
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
        equal = log_p.argmax(dim=-1) == log_q.argmax(dim=-1)
        columns = (divergence, equal, log_p.gather(-1, ids), log_q.gather(-1, ids))
        sums += torch.stack([column.double().sum() for column in columns]).cpu()
    return sums
