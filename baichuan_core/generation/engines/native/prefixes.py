"""Prefixes that several prompts share (system prompts, few-shot examples, n samples) and that are computed once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MIN_SAVED_TOKENS = 64  # a prefix that saves fewer tokens is not worth a separate forward pass


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A prefix that several prompts share.

    Attributes:
        tokens: Token ids of the prefix.
        parent: A shorter shared prefix that this one extends, if any.
    """

    tokens: tuple[int, ...]
    parent: "Prefix | None"

    def iterate_with_ancestors(self) -> "Iterator[Prefix]":
        """Yield this prefix and those that it extends, longest first."""
        prefix: Prefix | None = self
        while prefix:
            yield prefix
            prefix = prefix.parent


def find_common_prefixes(prompts: Sequence[tuple[int, ...]]) -> list[Prefix | None]:
    """Find, for each prompt, the longest shared prefix worth computing separately; it is shorter than the prompt.

    The prefixes are the branching points of the tree of all prompts, except those that would save fewer than
    `MIN_SAVED_TOKENS` tokens.

    Example:
        Let S be a system prompt of 100 tokens and E examples of 200 tokens.
        Prompts S+a, S+E+b and S+E+c have the prefixes S, S+E and S+E;
        S is computed once for three prompts, and S+E extends it once for two.
    """
    found: list[Prefix | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    groups: list[tuple[list[int], Prefix | None]] = [(order, None)]
    while groups:
        group, parent = groups.pop()
        # In a sorted group, a prefix of both the first and the last prompt is a prefix of every prompt.
        length = min(
            _count_common_tokens(prompts[group[0]], prompts[group[-1]]), min(len(prompts[i]) for i in group) - 1
        )
        gain = (length - (len(parent.tokens) if parent else 0)) * (len(group) - 1)
        if gain >= MIN_SAVED_TOKENS:
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
    return found


def _count_common_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
