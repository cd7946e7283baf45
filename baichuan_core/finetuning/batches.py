"""Batches of examples: padded to the longest one, or packed into rows in which examples cannot attend to each other."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.finetuning.example_store import IGNORED_LABEL, EncodedExample

ROW_LENGTH_CANDIDATE_COUNT = 16  # approximate number of row lengths to compare for each batch


@dataclass(frozen=True, slots=True)
class Collator:
    """Callable that makes a batch from examples: `input_ids`, `attention_mask` and `labels`, each [rows, longest].

    Packing does not change which examples are in a batch, so the loss and the gradients stay the same.

    Attributes:
        pad_token_id: Token id of padding.
        packed_length: Maximum number of tokens in a row with several examples; None for one example per row.
    """

    pad_token_id: int
    packed_length: int | None = None

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Make a batch.

        The mask is computed from the lengths; the published `input_ids != 0` would also mask real `<unk>` tokens. If a
        row has several examples, the mask contains the number of the example at each position, counting from 1, and
        `position_ids` restart with each example.

        Example:
            With pad_token_id=0 and packed_length=4, examples [5, 6, 7], [8] and [9] make two rows:
            input_ids [[5, 6, 7, 8], [9, 0, 0, 0]], attention_mask [[1, 1, 1, 2], [1, 0, 0, 0]] and
            position_ids [[0, 1, 2, 0], [0, 0, 0, 0]].
        """
        if self.packed_length is None:
            rows = [[example] for example in examples]
        else:
            lengths = [len(example.input_ids) for example in examples]
            rows = [[examples[index] for index in row] for row in pack_rows(lengths, self.packed_length)]
        batch = {
            "input_ids": _pad_rows(
                [[token for each in row for token in each.input_ids] for row in rows], self.pad_token_id
            ),
            "attention_mask": _pad_rows([_number_examples(row) for row in rows], 0),
            "labels": _pad_rows([_make_labels(row) for row in rows], IGNORED_LABEL),
        }
        if any(len(row) > 1 for row in rows):
            batch["position_ids"] = _pad_rows([_make_positions(row) for row in rows], 0)
        return batch


def pack_rows(lengths: Sequence[int], longest_row: int) -> list[list[int]]:
    """Distribute examples over rows with little padding; among equally good row lengths, choose the shortest.

    Args:
        lengths: Number of tokens of each example.
        longest_row: Maximum number of tokens in a row, unless a single example is longer.

    Returns:
        Indices of the examples of each row.
    """
    shortest, longest = max(lengths), max(*lengths, longest_row)
    step = max(1, (longest - shortest) // ROW_LENGTH_CANDIDATE_COUNT)
    ways = [pack_best_fit(lengths, capacity) for capacity in range(shortest, longest + 1, step)]
    return min(ways, key=lambda rows: len(rows) * max(sum(lengths[index] for index in row) for row in rows))


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack examples by best fit, longest first: each goes into the fullest row with room for it (Johnson 1973).

    Returns:
        Indices of the examples of each row, in the order of the rows' first examples.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # sorted pairs of (number of free positions, index of the row)
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


def _pad_rows(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _make_labels(row: Sequence[EncodedExample]) -> list[int]:
    """Return the labels of a row; no example's first token is predicted from the previous example."""
    return [label for example in row for label in (IGNORED_LABEL, *example.labels[1:])]


def _number_examples(row: Sequence[EncodedExample]) -> list[int]:
    return [number for number, example in enumerate(row, start=1) for _ in example.input_ids]


def _make_positions(row: Sequence[EncodedExample]) -> list[int]:
    return [position for example in row for position in range(len(example.input_ids))]
