"""Splits batches among ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from baichuan_core.finetuning.example_store import IGNORED_LABEL, EncodedExample

MIN_EXAMPLE_TOKENS = 2  # minimum length of an example: with fewer tokens, there is nothing to predict


@dataclass(frozen=True, slots=True)
class RankCollator:
    """Callable that makes tensors from one rank's share of a batch.

    With two ranks, rank 0 takes examples 0, 2, 4, ... and rank 1 takes 1, 3, 5, ... Together, their shares are the
    batch of a single process, even for the last batch of an epoch.

    Attributes:
        collate: Makes tensors from examples.
        rank: Index of the rank.
        size: Number of ranks.
    """

    collate: Callable[[Sequence[EncodedExample]], dict[str, Tensor]]
    rank: int
    size: int

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Make the tensors for this rank.

        If there is no example for this rank, it gets the first tokens of another rank's example without labels, so that
        their loss is 0: every rank must run the model, because ranks exchange weights and gradients in each pass.
        """
        part = list(examples[self.rank :: self.size])
        return self.collate(part or [_make_unlabeled_example(examples[0])])


def _make_unlabeled_example(example: EncodedExample) -> EncodedExample:
    ids = example.input_ids[:MIN_EXAMPLE_TOKENS]
    return EncodedExample(ids, [IGNORED_LABEL] * len(ids))
