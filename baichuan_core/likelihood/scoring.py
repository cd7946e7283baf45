"""How likely a model finds given tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError, DatasetError
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

from .head import OutputHead
from .passes import BATCH_TOKENS, hidden_states, shared_prefix
from .windows import Window

NOT_A_NUMBER = "the model computes NaN: use a checkpoint without NaN, or dtype float32"
LEAST_LIKELIHOOD = -700.0  # exp(700) is nearly the largest float


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        value: exp of the mean negative log-likelihood of a token.
        tokens: How many tokens were scored.
    """

    value: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How likely a continuation is after its prompt.

    Attributes:
        log_likelihood: Sum over its tokens, in nats.
        tokens: How many there are.
        greedy: Whether each of them is the most likely one where it stands.
    """

    log_likelihood: float
    tokens: int
    greedy: bool


def token_log_likelihoods(
    model: BaichuanForCausalLM,
    sequences: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> list[Tensor]:
    """Log-likelihood (nats) of every token but the first, given those before it.

    Args:
        model: In eval mode.
        sequences: Token ids, at least two each, of any lengths.
        batch_tokens: Most tokens in one batch, padding included.
        on_progress: Told the share of sequences that are done, stage "scoring".

    Returns:
        For each sequence float32 [tokens - 1] on the CPU.

    Raises:
        CheckpointError: The model computes NaN.
        DatasetError: A sequence has fewer than two tokens, or a token that the model does not have.
    """
    check_ids(model, sequences, shortest=2)
    head = OutputHead(model)
    scores: dict[int, Tensor] = {}
    for index, states in hidden_states(model, sequences, batch_tokens=batch_tokens):
        targets = torch.tensor(sequences[index][1:])[:, None]
        scores[index] = _numbers(_score(head, states[:-1], targets)[:, 0])
        on_progress(Progress(len(scores) / len(sequences), "scoring"))
    return [scores[index] for index in range(len(sequences))]


def perplexity(
    model: BaichuanForCausalLM,
    windows: Sequence[Window],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> Perplexity:
    """Perplexity over the scored tokens of `windows` (see `text_windows`); raises as `token_log_likelihoods`."""
    sequences = [window.token_ids for window in windows]
    rows = token_log_likelihoods(model, sequences, batch_tokens=batch_tokens, on_progress=on_progress)
    scored = torch.cat([row[window.first_scored - 1 :] for row, window in zip(rows, windows, strict=True)]).double()
    return Perplexity(perplexity_of(float(scored.mean())), scored.numel())


def perplexity_of(log_likelihood: float) -> float:
    """exp of a mean negative log-likelihood, given in nats a token.

    Raises:
        CheckpointError: It is NaN, or so low that there is no such number.
    """
    if math.isnan(log_likelihood):
        raise CheckpointError(NOT_A_NUMBER)
    if log_likelihood < LEAST_LIKELIHOOD:
        raise CheckpointError(
            f"the model finds the text impossible ({log_likelihood:.0f} nats a token): its weights are damaged, or "
            "another tokenizer than its own stands beside them"
        )
    return math.exp(-log_likelihood)


def next_token_log_likelihoods(
    model: BaichuanForCausalLM,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> Tensor:
    """Log-likelihood (nats) of each of `choices` as the token after each prompt.

    Tokens that all prompts begin with (few-shot examples) are computed once.

    Args:
        model: In eval mode.
        prompts: Token ids, none empty.
        choices: Token ids to choose from.
        batch_tokens: Most tokens in one batch, shared ones and padding included.
        on_progress: Told the share of prompts that are done, stage "scoring".

    Returns:
        float32 [prompts, choices] on the CPU, normalised over the whole vocabulary.

    Raises:
        CheckpointError: The model computes NaN.
        DatasetError: A prompt is empty, or a token is none of the model's.
    """
    check_ids(model, [*prompts, choices], shortest=1)
    head = OutputHead(model)
    shared = _shared_length(prompts)
    prefix = shared_prefix(model, prompts[0][:shared]) if prompts else None
    suffixes = [prompt[shared:] for prompt in prompts]
    scores = torch.empty(len(prompts), len(choices))
    passes = hidden_states(model, suffixes, batch_tokens=batch_tokens, prefix=prefix)
    for done, (index, states) in enumerate(passes, start=1):
        scores[index] = _score(head, states[-1:], torch.tensor([list(choices)]))[0]
        on_progress(Progress(done / len(prompts), "scoring"))
    return _numbers(scores)


def continuation_log_likelihoods(
    model: BaichuanForCausalLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> list[ContinuationScore]:
    """How likely `continuations[i]` is after `prompts[i]`; tokens that all prompts begin with are computed once.

    Args and errors are those of `next_token_log_likelihoods`; no continuation may be empty.
    """
    check_ids(model, [*prompts, *continuations], shortest=1)
    head = OutputHead(model)
    shared = _shared_length(prompts)
    prefix = shared_prefix(model, prompts[0][:shared]) if prompts else None
    # The last token predicts nothing that is asked.
    pairs = list(zip(prompts, continuations, strict=True))
    rests = [[*prompt[shared:], *continuation[:-1]] for prompt, continuation in pairs]
    scores: dict[int, ContinuationScore] = {}
    for index, states in hidden_states(model, rests, batch_tokens=batch_tokens, prefix=prefix):
        scores[index] = _continuation(head, states, continuations[index])
        on_progress(Progress(len(scores) / len(prompts), "scoring"))
    return [scores[index] for index in range(len(prompts))]


@torch.inference_mode()
def _continuation(head: OutputHead, states: Tensor, continuation: Sequence[int]) -> ContinuationScore:
    targets = torch.tensor(continuation)
    total, greedy = 0.0, True
    slices = head.log_probabilities(states[-len(continuation) :])
    for log_probs, wanted in zip(slices, targets.split(head.positions), strict=True):
        ids = wanted.to(log_probs.device)
        total += float(log_probs.gather(-1, ids[:, None]).double().sum())
        greedy = greedy and bool((log_probs.argmax(dim=-1) == ids).all())
    _numbers(torch.tensor(total))
    return ContinuationScore(total, len(continuation), greedy)


@torch.inference_mode()
def _score(head: OutputHead, states: Tensor, token_ids: Tensor) -> Tensor:
    return head.gathered(states, token_ids)


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share; each keeps one of its own at least, which has a next token."""
    if not prompts:
        return 0
    # Whatever the least and the greatest share is shared by all between them.
    least, greatest = min(prompts, key=tuple), max(prompts, key=tuple)
    differing = (place for place, (one, other) in enumerate(zip(least, greatest, strict=False)) if one != other)
    own = min(map(len, prompts)) - 1
    return min(next(differing, own), own)


def check_ids(model: BaichuanForCausalLM, sequences: Sequence[Sequence[int]], *, shortest: int) -> None:
    for sequence in sequences:
        if len(sequence) < shortest:
            raise DatasetError(f"a sequence of {len(sequence)} tokens cannot be scored: give {shortest} or more")
        if min(sequence) < 0 or max(sequence) >= model.config.vocab_size:
            raise DatasetError(
                f"the text has token ids from {min(sequence)} to {max(sequence)} and the model only "
                f"{model.config.vocab_size} embeddings: use the tokenizer that belongs to these weights"
            )


def _numbers(scores: Tensor) -> Tensor:
    if scores.isnan().any():
        raise CheckpointError(NOT_A_NUMBER)
    return scores
