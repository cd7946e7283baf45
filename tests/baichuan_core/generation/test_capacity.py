"""The capacity of engines with a fixed number of slots, and their queue."""

from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation import GenerationOptions
from baichuan_core.generation.engines.capacity import (
    compute_capacity,
    compute_serving_capacity,
    grow_capacity,
    is_capacity_sufficient,
)
from baichuan_core.generation.engines.contract import Capacity, EncodedRequest, SamplingSettings
from baichuan_core.generation.engines.waiting import WaitingQueue

GREEDY = SamplingSettings(temperature=0, top_k=0, top_p=1, repetition_penalty=1)
OPTIONS = GenerationOptions(batch_size=32, batch_tokens=16384)


def request_of(prompt: int, limit: int) -> EncodedRequest:
    return EncodedRequest(0, 0, (5,) * prompt, limit, 0, GREEDY)


def test_capacity_fits_known_requests_or_the_context_length() -> None:
    assert compute_capacity([request_of(100, 50), request_of(10, 10)], OPTIONS) == Capacity(2, 256)
    assert compute_capacity([request_of(100, 50)] * 100, OPTIONS) == Capacity(32, 256)
    assert compute_capacity([request_of(1000, 1000)] * 100, OPTIONS) == Capacity(8, 2048)
    assert compute_serving_capacity(4000, OPTIONS) == Capacity(4, 4096)
    assert compute_serving_capacity(4000, GenerationOptions(batch_tokens=1000)) == Capacity(1, 4096)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 500)), min_size=1, max_size=5),
    slots=st.integers(1, 32),
    tokens=st.integers(1, 16).map(lambda steps: 256 * steps),
)
def test_an_engine_is_restarted_with_enough_room_within_the_settings(
    sizes: list[tuple[int, int]], slots: int, tokens: int
) -> None:
    needed = compute_capacity([request_of(*size) for size in sizes], OPTIONS)
    assert needed.slot_tokens > max(map(sum, sizes))
    found = grow_capacity(Capacity(slots, tokens), needed, OPTIONS)
    assert is_capacity_sufficient(found, needed)
    assert found.slots == 1 or found.slots * found.slot_tokens <= OPTIONS.batch_tokens


def test_requests_wait_longest_first_behind_those_that_came_earlier() -> None:
    queue = WaitingQueue()
    for number, limit in enumerate((1, 9, 5)):
        queue.add(number, request_of(1, limit))
    assert queue.peek().limit == 9
    queue.add(3, request_of(1, 100))
    queue.remove(2)
    queue.remove(7)
    order = []
    while queue:
        queue.peek()
        order.append(queue.pop()[0])
    assert order == [1, 0, 3]
