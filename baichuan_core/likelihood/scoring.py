"""Log-likelihoods of given tokens, and perplexity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError, DatasetError
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress

from .head import OutputHead
from .passes import BATCH_TOKENS, compute_hidden_states, compute_shared_prefix
from .windows import Window

NAN_MESSAGE = "the model produces NaN: copy the checkpoint again, or use dtype float32"
MIN_LOG_LIKELIHOOD = -700.0  # nats; exp(710) overflows


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a text.

    Attributes:
        value: exp of the mean negative log-likelihood per token.
        tokens: Number of scored tokens.
    """

    value: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Likelihood of a continuation after its prompt.

    Attributes:
        log_likelihood: Sum of the log-likelihoods of its tokens, in nats.
        tokens: Number of tokens.
        greedy: Whether greedy decoding would produce exactly these tokens.
    """

    log_likelihood: float
    tokens: int
    greedy: bool


def compute_token_log_likelihoods(
    model: BaichuanForCausalLM,
    sequences: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> list[Tensor]:
    """Compute the log-likelihood (nats) of every token except the first, given the tokens before it.

    Args:
        model: The model, in eval mode.
        sequences: Token ids of sequences with at least two tokens each; lengths may differ.
        batch_tokens: Maximum number of tokens in a batch, including padding.
        on_progress: Called in the stage `scoring` with the fraction of sequences that are done.

    Returns:
        For each sequence, float32 [tokens - 1] on the CPU.

    Raises:
        CheckpointError: The model produces NaN.
        DatasetError: A sequence has fewer than two tokens, or a token id that is not in the model's vocabulary.
    """
    check_token_ids(model, sequences, shortest=2)
    head = OutputHead(model)
    scores: dict[int, Tensor] = {}
    for index, states in compute_hidden_states(model, sequences, batch_tokens=batch_tokens):
        targets = torch.tensor(sequences[index][1:])[:, None]
        scores[index] = _require_no_nan(_score_tokens(head, states[:-1], targets)[:, 0])
        on_progress(Progress(len(scores) / len(sequences), "scoring"))
    return [scores[index] for index in range(len(sequences))]


def perplexity(
    model: BaichuanForCausalLM,
    windows: Sequence[Window],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> Perplexity:
    """Compute the perplexity over the scored tokens of `windows` (see `split_into_windows`).

    Raises the same errors as `compute_token_log_likelihoods`.
    """
    sequences = [window.token_ids for window in windows]
    rows = compute_token_log_likelihoods(model, sequences, batch_tokens=batch_tokens, on_progress=on_progress)
    scored = torch.cat([row[window.first_scored - 1 :] for row, window in zip(rows, windows, strict=True)]).double()
    return Perplexity(perplexity_from_log_likelihood(float(scored.mean())), scored.numel())


def perplexity_from_log_likelihood(log_likelihood: float) -> float:
    """Convert a mean log-likelihood in nats per token to a perplexity.

    Raises:
        CheckpointError: The log-likelihood is NaN, or so low that the perplexity overflows.
    """
    if math.isnan(log_likelihood):
        raise CheckpointError(NAN_MESSAGE)
    if log_likelihood < MIN_LOG_LIKELIHOOD:
        raise CheckpointError(
            f"the model assigns the text almost no probability ({log_likelihood:.0f} nats per token): the weights are "
            "damaged or the tokenizer belongs to a different model; copy the checkpoint again"
        )
    return math.exp(-log_likelihood)


def compute_next_token_log_likelihoods(
    model: BaichuanForCausalLM,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> Tensor:
    """Compute the log-likelihood (nats) of each of `choices` as the next token after each prompt.

    A prefix shared by all prompts (few-shot examples) is computed once.

    Args:
        model: The model, in eval mode.
        prompts: Token ids; no prompt may be empty.
        choices: Token ids to choose from.
        batch_tokens: Maximum number of tokens in a batch, including shared tokens and padding.
        on_progress: Called in the stage `scoring` with the fraction of prompts that are done.

    Returns:
        float32 [prompts, choices] on the CPU, normalized over the whole vocabulary.

    Raises:
        CheckpointError: The model produces NaN.
        DatasetError: A prompt is empty, or a token id is not in the model's vocabulary.
    """
    check_token_ids(model, [*prompts, choices], shortest=1)
    head = OutputHead(model)
    shared = _compute_shared_prefix_length(prompts)
    prefix = compute_shared_prefix(model, prompts[0][:shared]) if prompts else None
    suffixes = [prompt[shared:] for prompt in prompts]
    scores = torch.empty(len(prompts), len(choices))
    passes = compute_hidden_states(model, suffixes, batch_tokens=batch_tokens, prefix=prefix)
    for done, (index, states) in enumerate(passes, start=1):
        scores[index] = _score_tokens(head, states[-1:], torch.tensor([list(choices)]))[0]
        on_progress(Progress(done / len(prompts), "scoring"))
    return _require_no_nan(scores)


def score_continuations(
    model: BaichuanForCausalLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: ProgressCallback = ignore_progress,
) -> list[ContinuationScore]:
    """Score `continuations[i]` as a continuation of `prompts[i]`; a prefix shared by all prompts is computed once.

    Arguments and errors are the same as for `compute_next_token_log_likelihoods`; no continuation may be empty.
    """
    check_token_ids(model, [*prompts, *continuations], shortest=1)
    head = OutputHead(model)
    shared = _compute_shared_prefix_length(prompts)
    prefix = compute_shared_prefix(model, prompts[0][:shared]) if prompts else None
    # The last token of a continuation is only scored; it is never fed to the model.
    pairs = list(zip(prompts, continuations, strict=True))
    rests = [[*prompt[shared:], *continuation[:-1]] for prompt, continuation in pairs]
    scores: dict[int, ContinuationScore] = {}
    for index, states in compute_hidden_states(model, rests, batch_tokens=batch_tokens, prefix=prefix):
        scores[index] = _score_continuation(head, states, continuations[index])
        on_progress(Progress(len(scores) / len(prompts), "scoring"))
    return [scores[index] for index in range(len(prompts))]


@torch.inference_mode()
def _score_continuation(head: OutputHead, states: Tensor, continuation: Sequence[int]) -> ContinuationScore:
    targets = torch.tensor(continuation)
    total, greedy = 0.0, True
    slices = head.compute_log_probabilities(states[-len(continuation) :])
    for log_probs, target_ids in zip(slices, targets.split(head.positions), strict=True):
        ids = target_ids.to(log_probs.device)
        total += float(log_probs.gather(-1, ids[:, None]).double().sum())
        greedy = greedy and bool((log_probs.argmax(dim=-1) == ids).all())
    _require_no_nan(torch.tensor(total))
    return ContinuationScore(total, len(continuation), greedy)


@torch.inference_mode()
def _score_tokens(head: OutputHead, states: Tensor, token_ids: Tensor) -> Tensor:
    return head.gather_log_likelihoods(states, token_ids)


def _compute_shared_prefix_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return the length of the prefix that all prompts share.

    It is shorter than every prompt, because at least one token has to run to predict the next one.
    """
    if not prompts:
        return 0
    # A prefix that the first and the last prompt in sorted order share is a prefix of all prompts between them.
    smallest, greatest = min(prompts, key=tuple), max(prompts, key=tuple)
    differing = (place for place, (one, other) in enumerate(zip(smallest, greatest, strict=False)) if one != other)
    limit = min(map(len, prompts)) - 1
    return min(next(differing, limit), limit)


def check_token_ids(model: BaichuanForCausalLM, sequences: Sequence[Sequence[int]], *, shortest: int) -> None:
    for sequence in sequences:
        if len(sequence) < shortest:
            raise DatasetError(f"a sequence of {len(sequence)} tokens cannot be scored: use {shortest} or more tokens")
        if min(sequence) < 0 or max(sequence) >= model.config.vocab_size:
            raise DatasetError(
                f"the text has token ids from {min(sequence)} to {max(sequence)}, but the model has only "
                f"{model.config.vocab_size} embeddings: use the tokenizer that belongs to these weights"
            )


def _require_no_nan(scores: Tensor) -> Tensor:
    if scores.isnan().any():
        raise CheckpointError(NAN_MESSAGE)
    return scores
