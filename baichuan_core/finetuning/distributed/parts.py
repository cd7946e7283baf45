"""The part of one rank in a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from baichuan_core.finetuning.data import IGNORED_LABEL, EncodedExample

MIN_TOKENS = 2  # of an example: with fewer, there is nothing to predict


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Take one rank's part of a batch and make tensors of it.

    With two ranks, rank 0 takes examples 0, 2, 4, ... and rank 1 takes 1, 3, 5, ...: the batches of all ranks together
    are the batch that one process would have, also at the end of an epoch.

    Attributes:
        collate: Makes tensors of some examples.
        rank: Index of the rank.
        size: Number of ranks.
    """

    collate: Callable[[Sequence[EncodedExample]], dict[str, Tensor]]
    rank: int
    size: int

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Make the tensors of this rank.

        A rank without an example gets the beginning of one without labels, whose loss is 0: every rank must run the
        model, because the ranks exchange weights and gradients while they do.
        """
        part = list(examples[self.rank :: self.size])
        return self.collate(part or [_without_labels(examples[0])])


def _without_labels(example: EncodedExample) -> EncodedExample:
    ids = example.input_ids[:MIN_TOKENS]
    return EncodedExample(ids, [IGNORED_LABEL] * len(ids))
