"""How far one model's predictions lie from another's on the same text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError, UnsupportedError
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

from .head import OutputHead
from .passes import BATCH_TOKENS, hidden_states
from .scoring import check_ids
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
    """
    sequences = [window.token_ids for window in windows]
    check_ids(model, sequences, shortest=2)
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

    Distributions exist for a slice of positions at a time, in float32; sums are float64.

    Raises:
        CheckpointError: One of the two computes NaN.
        UnsupportedError: Their vocabularies differ in size.
    """
    if model.config.vocab_size != reference.vocab_size:
        raise UnsupportedError(
            f"the models have {reference.vocab_size} and {model.config.vocab_size} tokens: only models of one "
            "vocabulary can be compared"
        )
    head = OutputHead(model)
    sums = torch.zeros(4, dtype=torch.float64)
    sequences = [window.token_ids for window in reference.windows]
    for done, (index, row) in enumerate(hidden_states(model, sequences, batch_tokens=batch_tokens), start=1):
        window = reference.windows[index]
        targets = torch.tensor(window.token_ids[window.first_scored :])
        sums += _sums(reference.head, reference.states[index], head, row[window.first_scored - 1 : -1], targets)
        on_progress(Progress(done / len(sequences), "scoring"))
    tokens = sum(len(states) for states in reference.states)
    divergence, equal, of_reference, of_model = (sums / tokens).tolist()
    if math.isnan(divergence + of_reference + of_model):
        raise CheckpointError("a model computes NaN: use checkpoints without NaN, or dtype float32")
    return Comparison(divergence, equal, math.exp(-of_reference), math.exp(-of_model), tokens)


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
