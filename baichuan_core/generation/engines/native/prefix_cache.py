"""Keys and values of token sequences that later prompts may start with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from baichuan_core.generation.engines.native.cache import SavedKeyValues


@dataclass(slots=True, eq=False)
class Segment:
    """A node of the radix tree: tokens that follow those of its parent, with their keys and values.

    Attributes:
        tokens: Token ids of the segment.
        states: Keys and values of these tokens.
        parent: The segment before this one; None for the root, which is empty.
        children: The segments that follow, keyed by their first token.
        used: Value of the cache's use counter at the last use.
    """

    tokens: tuple[int, ...]
    states: SavedKeyValues = field(repr=False)
    parent: "Segment | None"
    children: "dict[int, Segment]" = field(default_factory=dict, repr=False)
    used: int = 0


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """A saved prefix of a prompt.

    Attributes:
        length: Number of tokens in the prefix.
        parts: The segments that make up the prefix, and how many tokens of each belong to it.
    """

    length: int
    parts: tuple[tuple[Segment, int], ...]


class PrefixCache:
    """Saved keys and values in a radix tree, so that no token sequence is stored twice.

    A key or value depends only on the tokens up to its position. So every prefix of a saved sequence is usable, and
    sequences with the same prefix share it. When the cache is full, leaf segments are evicted, the least recently used
    first.

    Example:
        A system prompt S was saved with two conversations, S+a and S+b: the tree is S with the children a and b.
        The next turn of the first conversation, S+a+c, finds S+a; only c is computed.
        When the cache is full, b is evicted before a, and S last.

    Attributes:
        max_tokens: Maximum number of tokens to keep. The most recently used sequence may be longer.
        tokens: Number of tokens in the cache.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self._root = Segment((), [], None)
        self._time = 0

    def find(self, ids: Sequence[int]) -> PrefixMatch:
        """Return the longest saved prefix of `ids`, and mark it as just used."""
        match = self._find_longest_match(tuple(ids))
        if match.parts:
            self._mark_used(match.parts[-1][0])
        return match

    def add(self, ids: Sequence[int], save: Callable[[int, int], SavedKeyValues]) -> None:
        """Save a sequence unless it is already cached. May exceed `max_tokens` until the next call to `evict`.

        Args:
            ids: Token ids.
            save: Called with `start` and `end`; returns the keys and values of the positions from `start` to `end - 1`.
        """
        ids = tuple(ids)
        match = self._find_longest_match(ids)
        last, common = match.parts[-1] if match.parts else (self._root, 0)
        if match.length < len(ids):
            states = save(match.length, len(ids))
            # The rest of the segment is not part of `ids`, so it becomes a separate segment with its own last-use time.
            parent = _split_segment(last, common) if common < len(last.tokens) else last
            last = Segment(ids[match.length :], states, parent)
            parent.children[last.tokens[0]] = last
            self.tokens += len(last.tokens)
        self._mark_used(last)

    def _find_longest_match(self, ids: tuple[int, ...]) -> PrefixMatch:
        segment, length = self._root, 0
        parts: list[tuple[Segment, int]] = []
        while length < len(ids) and (child := segment.children.get(ids[length])):
            common = _count_common_tokens(child.tokens, ids[length : length + len(child.tokens)])
            parts.append((child, common))
            segment, length = child, length + common
            if common < len(child.tokens):
                break
        return PrefixMatch(length, tuple(parts))

    def _mark_used(self, segment: Segment) -> None:
        """Mark a segment and all its ancestors as just used."""
        self._time += 1
        above: Segment | None = segment
        while above is not None:
            above.used = self._time
            above = above.parent

    def evict(self, max_tokens: int | None = None) -> None:
        """Evict segments until at most `max_tokens` tokens, or only the most recently used sequence, remain.

        Args:
            max_tokens: By default, the cache's limit; 0 evicts the most recently used sequence too.
        """
        limit = self.max_tokens if max_tokens is None else max_tokens
        while self.tokens > limit:
            oldest = min(self._list_leaves(self._root), key=lambda leaf: leaf.used)
            if oldest.used == self._time and limit:
                return
            if oldest.parent is not None:
                del oldest.parent.children[oldest.tokens[0]]
            self.tokens -= len(oldest.tokens)

    def clear(self) -> None:
        """Evict everything."""
        self.evict(0)

    def _list_leaves(self, segment: Segment) -> Iterator[Segment]:
        for child in segment.children.values():
            if child.children:
                yield from self._list_leaves(child)
            else:
                yield child


def _split_segment(segment: Segment, length: int) -> Segment:
    """Split a segment after `length` tokens and return the first part, which replaces it in the tree."""

    def copy_states(first: int, last: int) -> SavedKeyValues:
        return [tuple(tensor[:, first:last].clone() for tensor in layer) for layer in segment.states]

    parent = segment.parent
    assert parent is not None  # noqa: S101 - the root is empty and never split
    first = Segment(segment.tokens[:length], copy_states(0, length), parent, used=segment.used)
    parent.children[first.tokens[0]] = first
    segment.states = copy_states(length, len(segment.tokens))
    segment.tokens, segment.parent = segment.tokens[length:], first
    first.children[segment.tokens[0]] = segment
    return first


def _count_common_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    if one == other:
        return len(one)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
