"""From logits to tokens, each row by its own settings and with its own noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from baichuan_core.errors import CheckpointError
from baichuan_core.generation.engines.contract import Sampling, TokenLogprobs
from baichuan_core.generation.seeds import uniform_numbers

CANDIDATES = 512  # so many of the most probable tokens nearly always hold the share that top-p wants
TIES = 64  # and so many more what is as probable as the last one


class Sampler:
    """The settings of a number of rows as tensors.

    A token is chosen by the row's number u of the step: the first, in the order of ids, at which the sum of the
    probabilities exceeds u. So near-ties change nothing unless a filter cuts between them; of equal ones a filter
    leaves those of the lowest ids.
    """

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        self.greedy = [not one.temperature for one in settings]
        self.penalised = any(one.repetition_penalty != 1 for one in settings)
        self._any_sampled = not all(self.greedy)
        sampled = [one for one in settings if one.temperature]
        self._top_k = max((one.top_k for one in sampled), default=0)
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
        best = _most_probable(scores)
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
        count = self._top_k if self._all_top_k else max(self._top_k, CANDIDATES)
        count = min(count + TIES, scores.shape[-1])
        best, ids = _ties_by_id(*scores.topk(count, dim=-1))
        left = self._left(best, scores)
        if count < scores.shape[-1] and self._may_go_on(best, left):
            best, ids = scores.sort(dim=-1, descending=True, stable=True)  # of the whole vocabulary: slow, and rare
            left = self._left(best, scores)
        ids, order = ids.sort(dim=-1)
        return ids.gather(-1, _drawn(left.gather(-1, order), noise))

    def _left(self, best: Tensor, scores: Tensor) -> Tensor:
        """Probabilities of the best ones, of which the filters leave the first; 0 for the others."""
        ranks = torch.arange(best.shape[-1], device=best.device)
        best = (best / self._temperatures).masked_fill(ranks >= self._top_ks, -torch.inf)
        sums = best.logsumexp(dim=-1, keepdim=True)
        if not self._all_top_k:
            of_all = (scores / self._temperatures).logsumexp(dim=-1, keepdim=True)
            sums = torch.where(self._top_ks > scores.shape[-1], of_all, sums)
        probabilities = (best - sums).exp()
        before = probabilities.cumsum(dim=-1) - probabilities
        return probabilities.masked_fill((before >= self._top_ps) & (ranks > 0), 0)

    def _may_go_on(self, best: Tensor, left: Tensor) -> bool:
        """Whether a row is left with the last of the candidates, or with one that is tied with it.

        Then others may belong to it, and which of the tied ones are candidates is left to chance.
        """
        return bool(((best == best[:, -1:]) & (left > 0) & ~self._is_greedy).any())


def _most_probable(scores: Tensor) -> Tensor:
    """Ids [rows, 1] of the largest scores [rows, vocab]; a NaN counts as the largest, the first of equal ones wins."""
    if scores.device.type != "cpu":
        return scores.argmax(dim=-1, keepdim=True)
    # NumPy's is vectorised, and takes a thirteenth of the time of torch's.
    return torch.from_numpy(scores.float().numpy().argmax(axis=-1, keepdims=True))


def _ties_by_id(best: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The same, where equal ones stand in the order of their ids: half precision has many of them."""
    ids, order = ids.sort(dim=-1)
    best, order = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return best, ids.gather(-1, order)


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
