"""Our engine: rows of any length join and leave, and each has the same output as it would alone."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from baichuan_core import BaichuanForCausalLM, BaichuanTokenizer, UnsupportedError
from baichuan_core.checkpoint import load_model, load_tokenizer
from baichuan_core.generation import GenerationOptions
from baichuan_core.generation.engines.contract import EncodedRequest, SamplingSettings
from baichuan_core.generation.engines.native import forward, passes, slots
from baichuan_core.generation.engines.native.cache import SlotCache
from baichuan_core.generation.engines.native.engine import NativeEngine
from examples.tiny_checkpoint import Family, make_tiny_checkpoint
from tests.baichuan_core.generation.driving import complete, run

GREEDY = SamplingSettings(temperature=0, top_k=0, top_p=1, repetition_penalty=1)
PENALISED = SamplingSettings(temperature=0, top_k=0, top_p=1, repetition_penalty=1.5)
SAMPLED = SamplingSettings(temperature=1.0, top_k=50, top_p=0.9, repetition_penalty=1.1)
NO_END = frozenset({-1})
LENGTHS = [(3, 20), (40, 4), (1, 11), (17, 30), (90, 2), (8, 8), (5, 25), (33, 1), (60, 12)]


@pytest.fixture(scope="module", params=get_args(Family))
def family(request: pytest.FixtureRequest) -> Family:
    name: Family = request.param
    return name


@pytest.fixture(scope="module")
def checkpoint(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp(family), family=family)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> BaichuanForCausalLM:
    return load_model(checkpoint, dtype="float32", device="cpu").prepack()


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> BaichuanTokenizer:
    return load_tokenizer(checkpoint)


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaichuanForCausalLM, BaichuanTokenizer]:
    """Return one model, for tests that do not depend on the family."""
    directory = make_tiny_checkpoint(tmp_path_factory.mktemp("one"), family="baichuan2-13b")
    return load_model(directory, dtype="float32", device="cpu").prepack(), load_tokenizer(directory)


def prompt_of(length: int, seed: int) -> tuple[int, ...]:
    ids = torch.randint(3, 1000, (length,), generator=torch.Generator().manual_seed(seed))
    return tuple(ids.tolist())


def requests_of(
    sampling: Sequence[SamplingSettings], lengths: Sequence[tuple[int, int]] = LENGTHS
) -> list[EncodedRequest]:
    return [
        EncodedRequest(i, 0, prompt_of(length, i), limit, 1000 + i, sampling[i % len(sampling)])
        for i, (length, limit) in enumerate(lengths)
    ]


def answers(
    model: BaichuanForCausalLM,
    tokenizer: BaichuanTokenizer,
    requests: Sequence[EncodedRequest],
    *,
    batch_size: int = 32,
    batch_tokens: int = 16384,
    **engine: Any,
) -> list[str]:
    """Return the texts in the order of the requests."""
    options = GenerationOptions(batch_size=batch_size, batch_tokens=batch_tokens)
    return [one.text for one in complete(NativeEngine(model, tokenizer, options, NO_END, **engine), requests)]


@contextmanager
def counted_tokens(model: BaichuanForCausalLM) -> Iterator[Callable[[], int]]:
    """Count the tokens that go through the decoder, including padding."""
    counts: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        yield lambda: sum(counts)
    finally:
        hook.remove()


def plain_answers(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer, requests: Sequence[EncodedRequest]
) -> list[str]:
    """Compute the same completions with a loop of transformers' `generate`."""
    texts = []
    for request in requests:
        ids = torch.tensor([request.prompt_ids])
        plain = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "eos_token_id": 5000}
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.limit,
            repetition_penalty=request.sampling.repetition_penalty,
            **plain,
        )
        texts.append(str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)))
    return texts


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 3}, {"batch_tokens": 200}, {}])
def test_greedy_equals_a_plain_loop_of_transformers(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer, settings: dict[str, int]
) -> None:
    requests = requests_of([GREEDY, PENALISED])
    assert answers(model, tokenizer, requests, **settings) == plain_answers(model, tokenizer, requests)


def test_samples_do_not_depend_on_the_batch(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> None:
    requests = requests_of([SAMPLED, GREEDY, replace(SAMPLED, top_k=0), replace(SAMPLED, top_k=0, top_p=1.0)])
    alone = [answers(model, tokenizer, [request])[0] for request in requests]
    assert answers(model, tokenizer, requests) == alone
    assert answers(model, tokenizer, requests[::-1], batch_size=4) == alone[::-1]


def test_common_prefixes_are_computed_once_and_change_nothing(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer
) -> None:
    system, longer = prompt_of(100, 50), prompt_of(70, 51)
    tails = [(), prompt_of(1, 52), prompt_of(9, 53), longer, (*longer, 7), (*longer, 8), (*longer, 8)]
    requests = [EncodedRequest(i, 0, (*system, *tail), 6, i, GREEDY) for i, tail in enumerate(tails)]
    with counted_tokens(model) as count:
        together = answers(model, tokenizer, requests, batch_size=4)
    assert together == plain_answers(model, tokenizer, requests)
    tree = len({(*system, *tail)[: end + 1] for tail in tails for end in range(len(system) + len(tail))})
    decoded = 5 * len(tails)
    padding = 4 * len(longer)  # suffixes of different lengths in one forward pass
    assert tree + decoded <= count() <= tree + decoded + padding + 2 * len(tails)


def documents(count: int) -> list[EncodedRequest]:
    """Return prompts with two levels of shared prefixes, whose order by length mixes the documents."""
    system = prompt_of(70, 60)
    prompts = [(*system, *prompt_of(80, 100 + i), *prompt_of(1 + 9 * q, 7)) for i in range(count) for q in range(3)]
    return [EncodedRequest(i, 0, prompt, 3, i, GREEDY) for i, prompt in enumerate(prompts)]


def test_evicting_common_prefixes_changes_nothing(
    one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = one_model
    requests = documents(8)
    alone = [answers(model, tokenizer, [request])[0] for request in requests]
    held: list[int] = []
    whole = slots.SlotBatch.decode

    def decode(self: slots.SlotBatch) -> Tensor:
        held.append(self.prefixes.tokens)
        return whole(self)

    monkeypatch.setattr(slots.SlotBatch, "decode", decode)
    assert answers(model, tokenizer, requests, batch_size=3) == alone
    assert max(held) > 600
    held.clear()
    assert answers(model, tokenizer, requests, batch_size=3, batch_tokens=1200) == alone
    assert 0 < max(held) <= 300


@pytest.mark.alone
@pytest.mark.parametrize("most_kept", [0, 1, 2])
def test_if_memory_runs_out_prefixes_are_dropped_before_an_answer_fails(
    one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer], monkeypatch: pytest.MonkeyPatch, most_kept: int
) -> None:
    model, tokenizer = one_model
    requests = documents(4)
    expected = answers(model, tokenizer, requests)
    saved: list[weakref.ref[Tensor]] = []
    save = SlotCache.save

    def save_few(self: SlotCache, slot: int, start: int, end: int) -> Any:
        if sum(one() is not None for one in saved) >= most_kept:
            raise torch.OutOfMemoryError
        kept = save(self, slot, start, end)
        saved.append(weakref.ref(kept[0][0]))
        return kept

    monkeypatch.setattr(SlotCache, "save", save_few)
    assert answers(model, tokenizer, requests) == expected


def test_samples_of_one_prompt_differ_and_compute_it_once(
    one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer],
) -> None:
    model, tokenizer = one_model
    prompt = prompt_of(80, 1)
    requests = [
        EncodedRequest(0, sample, prompt, 8, sample, replace(SAMPLED, top_k=0, top_p=1.0)) for sample in range(5)
    ]
    with counted_tokens(model) as count:
        texts = answers(model, tokenizer, requests)
    assert len(set(texts)) == 5
    assert texts == [answers(model, tokenizer, [request])[0] for request in requests]
    assert count() == 79 + 5 + 5 * 7


def test_long_prompts_run_in_chunks(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = requests_of([GREEDY], [(150, 5), (140, 5), (100, 9), (23, 4)])
    expected = answers(model, tokenizer, requests)
    for module in (passes, forward):
        monkeypatch.setattr(module, "MAX_PREFILL_TOKENS", 32)
    seen: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda _m, _a, k: seen.append(k["input_ids"].numel()), with_kwargs=True
    )
    assert answers(model, tokenizer, requests) == expected
    hook.remove()
    assert max(seen) == 32


def test_nothing_is_computed_for_rows_that_have_ended(
    one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer],
) -> None:
    model, tokenizer = one_model
    requests = [EncodedRequest(i, 0, prompt_of(10, i), limit, i, GREEDY) for i, limit in enumerate((2, 9, 4, 7))]
    with counted_tokens(model) as count:
        answers(model, tokenizer, requests)
    assert count() == 4 * 10 + (1 + 8 + 3 + 6)


def test_waiting_rows_take_the_slots_of_those_that_end(
    one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer],
) -> None:
    model, tokenizer = one_model
    requests = requests_of([GREEDY])
    rows: list[int] = []
    hook = model.model.register_forward_pre_hook(lambda _m, _a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    answers(model, tokenizer, requests, batch_size=3)
    hook.remove()
    assert max(rows) == 3
    steps = sum(limit for _, limit in LENGTHS)
    assert len(rows) < steps / 2  # sequentially, it would take one forward pass per token


def test_logprobs_are_those_of_a_plain_forward(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> None:
    requests = [replace(one, logprobs=3) for one in requests_of([SAMPLED, GREEDY])]
    engine = NativeEngine(model, tokenizer, GenerationOptions(batch_size=4), NO_END)
    for completion in complete(engine, requests):
        entries = completion.logprobs
        assert entries is not None
        request = requests[completion.index]
        ids = [*request.prompt_ids, *(entry.token_id for entry in entries)]
        with torch.inference_mode():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        assert len(entries) == request.limit
        for place, entry in enumerate(entries, start=len(request.prompt_ids) - 1):
            assert entry.logprob == pytest.approx(logs[place, entry.token_id].item(), abs=1e-4)
            best = logs[place].topk(3)
            assert [value for _, value in entry.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_running_out_of_memory_halves_the_batch_and_loses_no_token(
    one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer],
) -> None:
    model, tokenizer = one_model
    requests = requests_of([SAMPLED, PENALISED])
    expected = answers(model, tokenizer, requests)
    rows: list[int] = []

    def too_much(_module: object, _args: object, kwargs: dict[str, Tensor]) -> None:
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > 2 or len(rows) == 20:
            raise torch.OutOfMemoryError

    hook = model.model.register_forward_pre_hook(too_much, with_kwargs=True)
    try:
        assert answers(model, tokenizer, requests) == expected
    finally:
        hook.remove()
    assert max(rows[21:]) <= 2


def test_running_out_of_memory_with_one_row_is_an_error(
    one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer],
) -> None:
    model, tokenizer = one_model

    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError

    hook = model.model.register_forward_pre_hook(too_much)
    try:
        with pytest.raises(UnsupportedError, match="a single completion: lower max_new_tokens"):
            answers(model, tokenizer, requests_of([GREEDY]))
    finally:
        hook.remove()


def test_text_streams_piece_by_piece(one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer]) -> None:
    model, tokenizer = one_model
    requests = requests_of([SAMPLED])
    expected = answers(model, tokenizer, requests)
    engine = NativeEngine(model, tokenizer, GenerationOptions(batch_size=4), NO_END)
    texts: dict[int, list[str]] = {request.index: [] for request in requests}
    ended: set[int] = set()
    tokens = 0
    for step in run(engine, requests, stream=True):
        tokens += step.token_count
        for delta in step.deltas:
            assert delta.index not in ended
            texts[delta.index].append(delta.text)
        ended |= {one.index for one in step.completions}
    assert ["".join(texts[request.index]) for request in requests] == expected
    assert tokens == sum(request.limit for request in requests)
    assert max(map(len, texts.values())) > 5


def test_aborted_rows_are_not_computed_any_further(one_model: tuple[BaichuanForCausalLM, BaichuanTokenizer]) -> None:
    model, tokenizer = one_model
    engine = NativeEngine(model, tokenizer, GenerationOptions(batch_size=3), NO_END)
    ids = [engine.add_request(request) for request in requests_of([GREEDY], [(5, 20)] * 4)]
    engine.step()
    rows: list[int] = []
    hook = model.model.register_forward_pre_hook(lambda _m, _a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    for request_id in (ids[0], ids[3], ids[3], 999):  # running, waiting, gone and unknown
        engine.abort(request_id)
    engine.step()
    assert rows == [2]
    for request_id in ids:
        engine.abort(request_id)
    assert engine.is_idle
    assert engine.step().outputs == ()
    hook.remove()
    assert rows == [2]


@pytest.mark.alone
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("family", ["baichuan2-7b", "baichuan2-13b"], indirect=True, scope="module")
def test_compiled_decoding_gives_the_same_result(checkpoint: Path, tokenizer: BaichuanTokenizer) -> None:
    model = load_model(checkpoint, dtype="float32", device="cpu")  # prepacked weights cannot be compiled
    requests = requests_of([GREEDY, SAMPLED, PENALISED])
    expected = answers(model, tokenizer, requests)
    torch._dynamo.utils.counters.clear()
    assert answers(model, tokenizer, requests, batch_size=4, compiled=True) == expected
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
