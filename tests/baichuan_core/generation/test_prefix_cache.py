"""The prefix cache returns the keys and values of exactly the requested tokens, within its budget."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation.engines.native.cache import SavedKeyValues
from baichuan_core.generation.engines.native.prefix_cache import PrefixCache, PrefixMatch

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), max_size=12)


def states_of(tokens: tuple[int, ...], start: int, end: int) -> SavedKeyValues:
    """Return one key per position, which identifies the tokens up to it."""
    keys = [hash(tokens[: place + 1]) % 100_003 for place in range(start, end)]
    return [(torch.tensor(keys)[None, :, None],)]


def add(cache: PrefixCache, tokens: tuple[int, ...]) -> None:
    cache.add(tokens, lambda start, end: states_of(tokens, start, end))


def restored(match: PrefixMatch) -> list[int]:
    return [key for part, count in match.parts for key in part.states[0][0][0, :count, 0].tolist()]


@given(saved=SEQUENCES, asked=SEQUENCES)
def test_the_longest_saved_prefix_is_found_and_nothing_is_stored_twice(
    saved: list[tuple[int, ...]], asked: list[tuple[int, ...]]
) -> None:
    cache = PrefixCache(1000)
    for tokens in saved:
        add(cache, tokens)
    known = {tokens[: end + 1] for tokens in saved for end in range(len(tokens))}
    assert cache.tokens == len(known)
    for tokens in [*saved, *asked]:
        match = cache.find(tokens)
        assert match.length == max((n for n in range(len(tokens) + 1) if tokens[:n] in known), default=0)
        assert restored(match) == states_of(tokens, 0, match.length)[0][0][0, :, 0].tolist()


@given(saved=SEQUENCES, limit=st.integers(1, 12))
def test_eviction_keeps_the_budget_and_the_rest_stays_correct(saved: list[tuple[int, ...]], limit: int) -> None:
    cache = PrefixCache(limit)
    for tokens in saved:
        add(cache, tokens)
        cache.evict()
        assert cache.tokens <= max([limit, *map(len, saved)])
        match = cache.find(tokens)
        assert match.length == len(tokens)  # the newest one is never evicted
        assert restored(match) == states_of(tokens, 0, len(tokens))[0][0][0, :, 0].tolist()
    cache.clear()
    assert cache.tokens == 0


def test_the_least_recently_used_leaf_is_evicted_first() -> None:
    cache = PrefixCache(9)
    system, first, second = (1, 1, 1), (2, 2, 2), (3, 3, 3)
    add(cache, system + first)
    add(cache, system + second)
    cache.find(system + first)
    add(cache, (4,))
    cache.evict()
    assert [cache.find(one).length for one in (system + first, system + second, (4,))] == [6, 3, 1]
