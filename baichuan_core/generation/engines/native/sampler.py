"""Sampling of tokens from logits; every row has its own settings and random numbers."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from baichuan_core.generation.engines.contract import SamplingSettings
from baichuan_core.generation.engines.outputs import TokenLogprobs
from baichuan_core.generation.seeds import compute_uniform_numbers

MIN_CANDIDATES = 512  # this many of the most probable tokens are nearly always enough for top-p
EXTRA_CANDIDATES = 64  # extra candidates, so that tokens tied with the last one are included


class Sampler:
    """Sampler for a batch of rows; the settings of all rows are held in tensors.

    Sampling inverts the cumulative distribution: given the row's random number u for this step, it chooses the first
    token, in the order of ids, at which the cumulative probability exceeds u. Small differences in the logits therefore
    rarely change the result, even if they change the order of nearly equal tokens. If a filter has to cut between
    tokens with equal probabilities, it keeps those with the lowest ids.

    Example:
        Tokens 0, 1 and 2 have probabilities 0.2, 0.5 and 0.3; the cumulative sums are 0.2, 0.7 and 1.0.
        u = 0.10 chooses token 0,
        u = 0.65 chooses token 1 and u = 0.90 chooses token 2.
    """

    def __init__(self, settings: Sequence[SamplingSettings], device: torch.device) -> None:
        self.greedy = [not one.temperature for one in settings]
        self.penalized = any(one.repetition_penalty != 1 for one in settings)
        self._counting = [row for row, one in enumerate(settings) if one.presence_penalty or one.frequency_penalty]
        self._settings = settings
        self._any_sampled = not all(self.greedy)
        sampled = [one for one in settings if one.temperature]
        self._top_k = max((one.top_k for one in sampled), default=0)
        self._all_top_k = all(one.top_k for one in sampled)
        self._any_filter = any(one.top_k or one.top_p < 1 for one in sampled)

        def to_column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None]

        self._penalties = to_column([one.repetition_penalty for one in settings])
        self._is_greedy = to_column(self.greedy)
        self._temperatures = to_column([one.temperature or 1.0 for one in settings])
        self._top_ks = to_column([one.top_k or torch.iinfo(torch.int64).max for one in settings])
        self._top_ps = to_column([one.top_p for one in settings])
        biases = [(row, token, bias) for row, one in enumerate(settings) for token, bias in one.logit_bias]
        self._biases = _SparseLogitBias(biases, device) if biases else None

    def choose_tokens(
        self,
        logits: Tensor,
        history: Tensor | None,
        seeds: Sequence[int],
        steps: Sequence[int],
        completions: Sequence[Sequence[int]] = (),
    ) -> Tensor:
        """Choose one token per row.

        Args:
            logits: [rows, vocab]; not modified.
            history: Prompt and completion of each row [rows, tokens], padded with any token of the same row; required
                if a row has a repetition penalty.
            seeds: Seed of each row.
            steps: Index of the next token in each row's completion, from 0.
            completions: Tokens of each row's completion so far; required if a row has a presence or frequency
                penalty.

        Returns:
            Token ids [rows]; -1 for a row with a NaN logit.
        """
        scores = self._apply_penalties(logits, history, completions)
        best = _argmax(scores)
        broken = scores.gather(-1, best).isnan()
        chosen = best
        if self._any_sampled:
            noise = torch.from_numpy(compute_uniform_numbers(seeds, steps)).to(logits.device)[:, None]
            chosen = torch.where(self._is_greedy, best, self._sample_tokens(scores.float(), noise))
        return chosen.masked_fill(broken, -1)[:, 0]

    def _apply_penalties(self, logits: Tensor, history: Tensor | None, completions: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits [rows, vocab] with bias and with repetition, frequency and presence penalties applied."""
        scores = logits
        if self._biases:
            scores = self._biases.add_to(scores.float())
        if self.penalized and history is not None:
            scores = _apply_repetition_penalties(scores.float(), history, self._penalties)
        if self._counting:
            reductions = [
                (row, token, -(settings.frequency_penalty * count + settings.presence_penalty))
                for row in self._counting
                for settings in (self._settings[row],)
                for token, count in Counter(completions[row]).items()
            ]
            if reductions:
                scores = _SparseLogitBias(reductions, logits.device).add_to(scores.float())
        return scores

    def _sample_tokens(self, scores: Tensor, noise: Tensor) -> Tensor:
        """Apply temperature, top-k and top-p in transformers' order, then draw tokens [rows, 1] from [rows, vocab]."""
        if not self._any_filter:
            return _draw_index((scores / self._temperatures).softmax(dim=-1), noise)
        count = self._top_k if self._all_top_k else max(self._top_k, MIN_CANDIDATES)
        count = min(count + EXTRA_CANDIDATES, scores.shape[-1])
        best, ids = _sort_ties_by_id(*scores.topk(count, dim=-1))
        left = self._filter_candidates(best, scores)
        if count < scores.shape[-1] and self._may_need_more_candidates(best, left):
            best, ids = scores.sort(dim=-1, descending=True, stable=True)  # the whole vocabulary: slow but rare
            left = self._filter_candidates(best, scores)
        ids, order = ids.sort(dim=-1)
        return ids.gather(-1, _draw_index(left.gather(-1, order), noise))

    def _filter_candidates(self, best: Tensor, scores: Tensor) -> Tensor:
        """Return the probabilities of the candidates, best first, with 0 for those removed by top-k or top-p."""
        ranks = torch.arange(best.shape[-1], device=best.device)
        best = (best / self._temperatures).masked_fill(ranks >= self._top_ks, -torch.inf)
        sums = best.logsumexp(dim=-1, keepdim=True)
        if not self._all_top_k:
            of_all = (scores / self._temperatures).logsumexp(dim=-1, keepdim=True)
            sums = torch.where(self._top_ks > scores.shape[-1], of_all, sums)
        probabilities = (best - sums).exp()
        before = probabilities.cumsum(dim=-1) - probabilities
        return probabilities.masked_fill((before >= self._top_ps) & (ranks > 0), 0)

    def _may_need_more_candidates(self, best: Tensor, left: Tensor) -> bool:
        """Return whether the filters keep the last candidate of a row, or one tied with it.

        If so, tokens outside the candidates may pass the filters too, and which of the tied tokens are candidates is
        arbitrary.
        """
        return bool(((best == best[:, -1:]) & (left > 0) & ~self._is_greedy).any())


def _argmax(scores: Tensor) -> Tensor:
    """Return the ids [rows, 1] of the largest scores [rows, vocab]; NaN counts as largest, ties go to the lowest id."""
    if scores.device.type != "cpu":
        return scores.argmax(dim=-1, keepdim=True)
    # NumPy's argmax is vectorized and 13 times as fast as torch's.
    return torch.from_numpy(scores.float().numpy().argmax(axis=-1, keepdims=True))


def _sort_ties_by_id(best: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sort equal values by id; half precision produces many of them."""
    ids, order = ids.sort(dim=-1)
    best, order = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return best, ids.gather(-1, order)


def _draw_index(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Draw an index [rows, 1] by inverting the cumulative sum at `noise` [rows, 1].

    The probabilities [rows, n] do not have to sum to 1.
    """
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64)
    return torch.searchsorted(sums, noise * sums[:, -1:], right=True).clamp(max=sums.shape[-1] - 1)


class _SparseLogitBias:
    """Numbers to add to individual logits."""

    def __init__(self, changes: Sequence[tuple[int, int, float]], device: torch.device) -> None:
        """Store the changes: triples of row, token and number, at most one for each pair of row and token."""
        rows, tokens, values = zip(*changes, strict=True)
        self._where = (torch.tensor(rows, device=device), torch.tensor(tokens, device=device))
        self._values = torch.tensor(values, device=device)

    def add_to(self, scores: Tensor) -> Tensor:
        """Return the changed scores as a new tensor; `scores` is not modified."""
        return scores.index_put(self._where, self._values, accumulate=True)


def _apply_repetition_penalties(scores: Tensor, history: Tensor, penalties: Tensor) -> Tensor:
    """Divide positive scores of tokens that have already occurred by the penalty; multiply negative ones by it."""
    seen = scores.gather(-1, history)
    return scores.scatter(-1, history, torch.where(seen < 0, seen * penalties, seen / penalties))


def compute_logprobs(logits: Tensor, tokens: Sequence[int], wanted: Sequence[int | None]) -> list[TokenLogprobs | None]:
    """Compute log-probabilities of the chosen tokens and their alternatives, before sampling settings are applied.

    Args:
        logits: [rows, vocab].
        tokens: The chosen token of each row, which must not be -1 for rows with log-probabilities.
        wanted: Number of alternatives per row; None for rows without log-probabilities.
    """
    found: list[TokenLogprobs | None] = [None] * len(tokens)
    asking = [row for row, count in enumerate(wanted) if count is not None]
    if not asking:
        return found
    logs = logits[asking].float().log_softmax(dim=-1)
    chosen = logs.gather(-1, torch.tensor([[tokens[row]] for row in asking], device=logs.device))[:, 0].tolist()
    best = logs.topk(max(wanted[row] or 0 for row in asking), dim=-1)
    for row, logprob, values, ids in zip(asking, chosen, best.values.tolist(), best.indices.tolist(), strict=True):
        count = wanted[row] or 0
        found[row] = TokenLogprobs(tokens[row], logprob, tuple(zip(ids[:count], values[:count], strict=True)))
    return found
