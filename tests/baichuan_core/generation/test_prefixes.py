"""Shared prefixes: correct for every prompt, and computed only once if that is worthwhile."""

from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation.engines.native.prefixes import MIN_SAVED_TOKENS, Prefix, find_common_prefixes

PIECES = st.lists(st.sampled_from([(1,), (2,), (1, 2) * 20, (3,) * 50, (4, 5) * 40]), min_size=1, max_size=5)
PROMPTS = st.lists(PIECES.map(lambda pieces: sum(pieces, ())), min_size=1, max_size=12)


@given(PROMPTS)
def test_a_prefix_begins_its_prompts_and_is_shorter(prompts: list[tuple[int, ...]]) -> None:
    for prompt, prefix in zip(prompts, find_common_prefixes(prompts), strict=True):
        above: Prefix | None = prefix
        while above:
            assert len(above.tokens) < len(prompt)
            assert prompt[: len(above.tokens)] == above.tokens
            assert not above.parent or len(above.parent.tokens) < len(above.tokens)
            above = above.parent


@given(PROMPTS)
def test_shared_prefixes_save_tokens_and_few_are_missed(prompts: list[tuple[int, ...]]) -> None:
    tree = {prompt[: end + 1] for prompt in prompts for end in range(len(prompt))}
    found = find_common_prefixes(prompts)
    shared = {one.tokens: one for prefix in found for one in _with_parents(prefix)}
    computed = sum(len(one.tokens) - len(one.parent.tokens if one.parent else ()) for one in shared.values())
    computed += sum(len(p) - len(one.tokens if one else ()) for p, one in zip(prompts, found, strict=True))
    assert computed <= sum(map(len, prompts))
    assert computed <= len(tree) + (len(prompts) * 2) * MIN_SAVED_TOKENS


def test_a_system_prompt_and_samples_of_one_prompt_are_both_found() -> None:
    system, one, other = (7,) * 100, (1,) * 80, (2,) * 90
    first, second, third = find_common_prefixes([system + one, system + one, system + other])
    assert first is second
    assert first is not None
    assert first.tokens == system + one[:-1]
    assert third is not None
    assert first.parent is third
    assert third.tokens == system


def test_short_common_prefixes_are_ignored() -> None:
    assert find_common_prefixes([(1, 2, 3), (1, 2, 4), (1,) * 40, (1,) * 40]) == [None] * 4


def _with_parents(prefix: Prefix | None) -> list[Prefix]:
    return list(prefix.iterate_with_ancestors()) if prefix else []
