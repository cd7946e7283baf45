"""The queue: every row joins exactly once, within the limits on slots and tokens."""

from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.generation.engines.contract import EncodedRequest, SamplingSettings
from baichuan_core.generation.engines.native.schedule import Row, RowScheduler
from baichuan_core.generation.transcript import Transcript
from baichuan_core.tokenizer import BaichuanTokenizer

GREEDY = SamplingSettings(temperature=0, top_k=0, top_p=1, repetition_penalty=1)
SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), max_size=40)


def rows_of(sizes: list[tuple[int, int]]) -> list[Row]:
    requests = [EncodedRequest(i, 0, (5,) * length, limit, 0, GREEDY) for i, (length, limit) in enumerate(sizes)]
    tokenizer = BaichuanTokenizer.__new__(BaichuanTokenizer)  # nothing is decoded here
    return [Row(one.index, one, Transcript(tokenizer, one, frozenset()), list(one.prompt_ids)) for one in requests]


@given(
    sizes=SIZES,
    slots=st.integers(1, 20),
    tokens=st.integers(1, 500),
    min_joining=st.integers(1, 30),
    leaving=st.integers(1, 5),
)
def test_every_row_joins_once_and_within_the_limits(
    sizes: list[tuple[int, int]], slots: int, tokens: int, min_joining: int, leaving: int
) -> None:
    schedule = RowScheduler(rows_of(sizes), slots=slots, tokens=tokens, min_joining=min_joining)
    active: list[Row] = []
    joined: list[int] = []
    while schedule or active:
        joining = schedule.take_joining_rows(active)
        assert joining or active
        active += joining
        joined += [row.request.index for row in joining]
        assert len(active) <= slots
        assert len(active) == 1 or len(active) * max(row.request.max_tokens for row in active) <= tokens
        assert len(active) <= schedule.compute_max_rows(active) <= max(slots, 1)
        del active[:leaving]
    assert sorted(joined) == list(range(len(sizes)))


def test_the_longest_come_first_and_requeued_rows_keep_their_position() -> None:
    schedule = RowScheduler(rows_of([(3, 5), (9, 5), (4, 8)]), slots=3, tokens=1000)
    rows = schedule.take_joining_rows([])
    assert [row.request.index for row in rows] == [2, 1, 0]
    schedule.slots = 2
    schedule.requeue(rows)
    assert [row.request.index for row in schedule.take_joining_rows([])] == [2, 1]
    assert [row.request.index for row in schedule.take_joining_rows(rows[:1])] == [0]


def test_a_single_free_slot_of_many_waits_for_more() -> None:
    schedule = RowScheduler(rows_of([(4, 4)] * 40), slots=32, tokens=10_000, min_joining=4)
    active = schedule.take_joining_rows([])
    assert len(active) == 32
    assert schedule.take_joining_rows(active[:31]) == []
    assert len(schedule.take_joining_rows(active[:28])) == 4
    assert len(schedule.take_joining_rows([])) == 4
