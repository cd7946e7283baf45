"""Batches of examples: padded to the longest, or packed into full rows that keep examples apart."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.finetuning.example_store import IGNORED_LABEL, EncodedExample

PACKING_TRIES = 16  # row lengths that are compared for each batch


@dataclass(frozen=True, slots=True)
class Collator:
    """Make one batch of a list of examples: `input_ids`, `attention_mask` and `labels`, each [rows, longest].

    A batch has the same examples, and so the same loss and gradients, packed or not.

    Attributes:
        pad_token_id: Id after the end of a row.
        packed_length: Most tokens of a row with several examples; None for one example per row.
    """

    pad_token_id: int
    packed_length: int | None = None

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Make a batch.

        The mask follows the length, unlike the published `input_ids != 0`, which hides a real `<unk>`. If a row has
        several examples, the mask has their numbers within the row, and `position_ids` restart with each.
        """
        if self.packed_length is None:
            rows = [[example] for example in examples]
        else:
            lengths = [len(example.input_ids) for example in examples]
            rows = [[examples[index] for index in row] for row in choose_rows(lengths, self.packed_length)]
        batch = {
            "input_ids": _padded(
                [[token for each in row for token in each.input_ids] for row in rows], self.pad_token_id
            ),
            "attention_mask": _padded([_numbers(row) for row in rows], 0),
            "labels": _padded([_labels(row) for row in rows], IGNORED_LABEL),
        }
        if any(len(row) > 1 for row in rows):
            batch["position_ids"] = _padded([_positions(row) for row in rows], 0)
        return batch


def choose_rows(lengths: Sequence[int], longest_row: int) -> list[list[int]]:
    """Distribute examples over rows so that few positions are padding; of equals, the shortest rows.

    Args:
        lengths: Of the examples.
        longest_row: Most tokens of a row, unless a single example is longer.

    Returns:
        Indices of the examples of each row.
    """
    shortest, longest = max(lengths), max(*lengths, longest_row)
    step = max(1, (longest - shortest) // PACKING_TRIES)
    ways = [fit_best(lengths, capacity) for capacity in range(shortest, longest + 1, step)]
    return min(ways, key=lambda rows: len(rows) * max(sum(lengths[index] for index in row) for row in rows))


def fit_best(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack examples by best fit, the longest first: each goes to the row that it fills most (Johnson 1973).

    Returns:
        Indices of the examples of each row, in the order of the rows' first examples.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # left in a row, and its index
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect_left(room, (lengths[index], -1))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = max(capacity, lengths[index]), len(rows)
            rows.append([])
        rows[row].append(index)
        insort(room, (left - lengths[index], row))
    return rows


def _padded(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _labels(row: Sequence[EncodedExample]) -> list[int]:
    """Labels of a row; the first token of an example is predicted from nothing, never from the example before."""
    return [label for example in row for label in (IGNORED_LABEL, *example.labels[1:])]


def _numbers(row: Sequence[EncodedExample]) -> list[int]:
    return [number for number, example in enumerate(row, start=1) for _ in example.input_ids]


def _positions(row: Sequence[EncodedExample]) -> list[int]:
    return [position for example in row for position in range(len(example.input_ids))]
