"""Batches: everything once, within the limits."""

from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation.batching import batches
from baichuan_core.generation.engines.contract import EncodedRequest, Sampling

GREEDY = Sampling(temperature=0, top_k=0, top_p=1, repetition_penalty=1)

SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), max_size=40)


@given(sizes=SIZES, batch_tokens=st.integers(1, 500), batch_size=st.integers(1, 8))
def test_every_request_runs_once_and_within_the_limits(
    sizes: list[tuple[int, int]], batch_tokens: int, batch_size: int
) -> None:
    requests = [
        EncodedRequest(index, 0, (5,) * length, limit, 0, GREEDY) for index, (length, limit) in enumerate(sizes)
    ]
    groups = batches(requests, batch_tokens=batch_tokens, batch_size=batch_size)
    assert sorted(one.index for group in groups for one in group) == list(range(len(requests)))
    for group in groups:
        longest = max(len(one.prompt_ids) for one in group) + max(one.limit for one in group)
        assert len(group) <= batch_size
        assert len(group) == 1 or longest * len(group) <= batch_tokens
    lengths = [len(one.prompt_ids) for group in groups for one in group]
    assert lengths == sorted(lengths, reverse=True)
