"""Beginnings that prompts have in common (system prompts, few-shot examples, n samples), to be computed once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from baichuan_core.generation.engines.native.cache import Saved

LEAST_SAVED_TOKENS = 64  # what one more forward pass is worth


@dataclass(slots=True, eq=False)
class Prefix:
    """The common beginning of several prompts.

    Attributes:
        tokens: Its ids.
        parent: A shorter common beginning that it goes on from.
        waiting: How many prompts and longer prefixes have yet to go on from it.
        saved: Its keys and values while they are there.
    """

    tokens: tuple[int, ...]
    parent: "Prefix | None"
    waiting: int = 0
    saved: Saved | None = field(default=None, repr=False)

    def used(self) -> None:
        """One less waits; the last one frees the memory."""
        self.waiting -= 1
        if not self.waiting:
            self.saved = None

    def drop(self) -> None:
        """Frees the memory although some wait: it will be computed again."""
        self.saved = None
        if self.parent:
            self.parent.needed_again()

    def needed_again(self) -> None:
        """One more waits."""
        self.waiting += 1
        if self.waiting == 1 and self.parent:  # the last one had freed it
            self.parent.needed_again()


def common_prefixes(prompts: Sequence[tuple[int, ...]]) -> list[Prefix | None]:
    """For each prompt the longest prefix worth computing once; always shorter than the prompt.

    They are the branching points of the tree of all prompts, without those that would save fewer than 64 tokens.
    """
    found: list[Prefix | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    groups: list[tuple[list[int], Prefix | None]] = [(order, None)]
    while groups:
        group, parent = groups.pop()
        # In a sorted group what the first and the last have in common, all have.
        length = min(_common_length(prompts[group[0]], prompts[group[-1]]), min(len(prompts[i]) for i in group) - 1)
        gain = (length - (len(parent.tokens) if parent else 0)) * (len(group) - 1)
        if gain >= LEAST_SAVED_TOKENS:
            if parent:
                parent.waiting += 1
            parent = Prefix(prompts[group[0]][:length], parent)
        branches: dict[int, list[int]] = defaultdict(list)
        for i in group:
            if len(prompts[i]) - 1 > length:
                branches[prompts[i][length]].append(i)
            else:
                found[i] = parent
        for branch in branches.values():
            if len(branch) > 1:
                groups.append((branch, parent))
            else:
                found[branch[0]] = parent
    for prefix in found:
        if prefix:
            prefix.waiting += 1
    return found


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
