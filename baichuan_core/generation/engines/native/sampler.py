"""From logits to tokens, each row by its own settings and with its own noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError
from baichuan_core.generation.engines.contract import Sampling, TokenLogprobs
from baichuan_core.generation.seeds import uniform_numbers

CANDIDATES = 512  # the most probable tokens, which nearly always hold the share that top-p wants


class Sampler:
    """The settings of a number of rows as tensors.

    A token is chosen by the row's number u of the step: the first, in the order of ids, at which the sum of the
    probabilities exceeds u. So near-ties change nothing unless a filter cuts between them.
    """

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        self.greedy = [not one.temperature for one in settings]
        self.penalised = any(one.repetition_penalty != 1 for one in settings)
        self._any_sampled = not all(self.greedy)
        self._top_k = max(one.top_k for one in settings)
        sampled = [one for one in settings if one.temperature]
        self._all_top_k = all(one.top_k for one in sampled)
        self._any_filter = any(one.top_k or one.top_p < 1 for one in sampled)

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None]

        self._penalties = column([one.repetition_penalty for one in settings])
        self._is_greedy = column(self.greedy)
        self._temperatures = column([one.temperature or 1.0 for one in settings])
        self._top_ks = column([one.top_k or torch.iinfo(torch.int64).max for one in settings])
        self._top_ps = column([one.top_p for one in settings])

    def choose(self, logits: Tensor, history: Tensor | None, seeds: Sequence[int], steps: Sequence[int]) -> Tensor:
        """Tokens [rows].

        Args:
            logits: [rows, vocab], not changed.
            history: Prompt and answer of each row [rows, tokens], filled up with any token of the same row; needed
                where there is a repetition penalty.
            seeds: Of each row.
            steps: Which token of the answer each row is at, from 0.

        Raises:
            CheckpointError: A logit is NaN.
        """
        scores = logits
        if self.penalised and history is not None:
            scores = _penalised(scores.float(), history, self._penalties)
        best = scores.argmax(dim=-1, keepdim=True)  # a NaN counts as the largest
        if scores.gather(-1, best).isnan().any():
            raise CheckpointError(
                "the model computes values that are no numbers: its weights are damaged, or its activations too large"
                " for float16; copy the checkpoint again, or use dtype 'bfloat16' or 'float32'"
            )
        if not self._any_sampled:
            return best[:, 0]
        noise = torch.from_numpy(uniform_numbers(seeds, steps)).to(logits.device)[:, None]
        return torch.where(self._is_greedy, best, self._sampled(scores.float(), noise))[:, 0]

    def _sampled(self, scores: Tensor, noise: Tensor) -> Tensor:
        """Temperature, top-k and top-p in transformers' order, then a draw: [rows, vocab] to tokens [rows, 1]."""
        if not self._any_filter:
            return _drawn((scores / self._temperatures).softmax(dim=-1), noise)
        probabilities, ids = self._most_probable(scores)
        before = probabilities.cumsum(dim=-1) - probabilities
        ranks = torch.arange(ids.shape[-1], device=scores.device)
        probabilities = probabilities.masked_fill((before >= self._top_ps) & (ranks > 0), 0)
        ids, order = ids.sort(dim=-1)
        return ids.gather(-1, _drawn(probabilities.gather(-1, order), noise))

    def _most_probable(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of those that top-k leaves and their ids, best first; where it leaves all, those of top-p."""
        count = self._top_k if self._all_top_k else max(self._top_k, CANDIDATES)
        best, ids = scores.topk(min(count, scores.shape[-1]), dim=-1)
        found = self._after_top_k(best, scores)
        if not self._all_top_k and not self._hold_enough(found):
            best, ids = scores.sort(dim=-1, descending=True, stable=True)  # of the whole vocabulary: slow, and rare
            found = self._after_top_k(best, scores)
        return found, ids

    def _after_top_k(self, best: Tensor, scores: Tensor) -> Tensor:
        """Softmax of the best ones over what top-k leaves; over all scores where there is no top-k."""
        ranks = torch.arange(best.shape[-1], device=best.device)
        best = (best / self._temperatures).masked_fill(ranks >= self._top_ks, -torch.inf)
        sums = best.logsumexp(dim=-1, keepdim=True)
        if not self._all_top_k:
            of_all = (scores / self._temperatures).logsumexp(dim=-1, keepdim=True)
            sums = torch.where(self._top_ks > scores.shape[-1], of_all, sums)
        return (best - sums).exp()

    def _hold_enough(self, probabilities: Tensor) -> bool:
        """Whether no row needs more candidates than these."""
        has_top_k = self._top_ks <= probabilities.shape[-1]
        return bool((has_top_k | self._is_greedy | (probabilities.sum(dim=-1, keepdim=True) >= self._top_ps)).all())


def _drawn(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Index [rows, 1] of the first sum that exceeds the noise [rows, 1]; probabilities [rows, n] need no sum of 1."""
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64)
    return torch.searchsorted(sums, noise * sums[:, -1:], right=True).clamp(max=sums.shape[-1] - 1)


def _penalised(scores: Tensor, history: Tensor, penalties: Tensor) -> Tensor:
    """Keskar et al. 2019: positive scores of tokens that have occurred are divided, negative ones multiplied."""
    seen = scores.gather(-1, history)
    return scores.scatter(-1, history, torch.where(seen < 0, seen * penalties, seen / penalties))


def logprobs_of(logits: Tensor, tokens: Sequence[int], wanted: Sequence[int | None]) -> list[TokenLogprobs | None]:
    """The model's own view of the chosen tokens, for the rows that want it with so many alternatives.

    Args:
        logits: [rows, vocab].
        tokens: The chosen one of each row.
        wanted: How many alternatives each row wants; None for nothing at all.
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
