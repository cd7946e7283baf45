"""vLLM with our model, compared with our own engine. Requires vLLM; `make test-vllm` installs its CPU build."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baichuan_core import GenerationOptions, GenerationRequest, TextGenerator, UnsupportedError, generate
from baichuan_core.generation.engines.outputs import Completion, TextDelta
from examples.tiny_checkpoint import Family, make_tiny_checkpoint

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

PROMPTS = ["a", "The sum of two and three is", "春天来了，", "x y z " * 20]
REQUESTS = [
    *(GenerationRequest(prompt=prompt) for prompt in PROMPTS),
    GenerationRequest(messages=[{"role": "user", "content": "What is a queue?"}]),
]
ON_VLLM = GenerationOptions(
    temperature=0, repetition_penalty=1.0, max_new_tokens=24, logprobs=2, dtype="float32", engine="vllm"
)
GREEDY = replace(ON_VLLM, engine="transformers")
CLOSE = 1e-4  # difference of two float32 computations that sum in different order


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def started(checkpoint: Path) -> Iterator[TextGenerator]:
    generator = TextGenerator(checkpoint, ON_VLLM)
    generator.complete(REQUESTS)  # the capacity it is started with
    yield generator
    generator.close()


def assert_equal(ours: list[Completion], theirs: list[Completion]) -> None:
    """Check that texts, finish reasons and log-probabilities are the same."""
    assert len(ours) == len(theirs)
    for mine, their in zip(ours, theirs, strict=True):
        assert replace(mine, logprobs=None) == replace(their, logprobs=None)
        assert mine.logprobs is not None
        assert their.logprobs is not None
        for one, other in zip(mine.logprobs, their.logprobs, strict=True):
            assert one.token_id == other.token_id
            assert one.logprob == pytest.approx(other.logprob, abs=CLOSE)
            assert [token for token, _ in one.alternatives] == [token for token, _ in other.alternatives]


@pytest.mark.parametrize("family", ["baichuan1-7b", "baichuan1-13b", "baichuan2-13b"])
def test_every_family_gives_the_answers_of_our_own_engine(family: Family, tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "checkpoint", family=family)
    requests = REQUESTS[:-1]
    theirs = TextGenerator(directory, ON_VLLM)
    found = theirs.complete(requests)
    theirs.close()
    assert_equal(TextGenerator(directory, GREEDY).complete(requests), found)


def test_chats_and_prompts_get_the_answers_of_our_own_engine(checkpoint: Path, started: TextGenerator) -> None:
    assert_equal(TextGenerator(checkpoint, GREEDY).complete(REQUESTS), started.complete(REQUESTS))


def test_vllm_is_chosen_if_its_build_supports_the_device(checkpoint: Path) -> None:
    assert TextGenerator(checkpoint, replace(GREEDY, engine="auto")).choice.name == "vllm"
    with pytest.raises(UnsupportedError, match="does not support cuda"):
        TextGenerator(checkpoint, replace(ON_VLLM, device="cuda"))
    with pytest.raises(UnsupportedError, match="always uses the first visible GPU"):
        TextGenerator(checkpoint, replace(ON_VLLM, device="cuda:1"))


def test_stop_texts(checkpoint: Path, started: TextGenerator) -> None:
    whole = TextGenerator(checkpoint, GREEDY).complete(REQUESTS)
    text = next(one.text for one in whole if len(one.text) > 6)
    requests = [replace(one, stop=(text[4:6],)) for one in REQUESTS]
    assert_equal(TextGenerator(checkpoint, GREEDY).complete(requests), started.complete(requests))


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(started: TextGenerator) -> None:
    sampled = [replace(one, temperature=1.0, top_k=50, seed=7) for one in REQUESTS]
    together = started.complete(sampled)
    alone = [started.complete([one])[0] for one in sampled]
    assert [one.text for one in together] == [one.text for one in alone]
    other = started.complete([replace(one, seed=8) for one in sampled])
    assert [one.text for one in together] != [one.text for one in other]


def test_deltas_join_to_the_text_and_a_closed_stream_leaves_nothing(started: TextGenerator) -> None:
    texts = dict.fromkeys(range(len(REQUESTS)), "")
    for event in started.stream(REQUESTS):
        if isinstance(event, TextDelta):
            texts[event.index] += event.text
        else:
            assert texts[event.index] == event.text
    stream = started.stream(REQUESTS)
    next(stream)
    together = started.complete(REQUESTS)
    stream.close()  # type: ignore[attr-defined] # it is a generator
    again = started.complete(REQUESTS)
    assert [one.text for one in again] == [one.text for one in together] == list(texts.values())


def test_requests_are_submitted_and_cancelled_while_others_run(checkpoint: Path, started: TextGenerator) -> None:
    expected = [one.text for one in TextGenerator(checkpoint, GREEDY).complete(REQUESTS)]
    streams = [started.submit(one) for one in REQUESTS]
    cancelled = [started.submit(one) for one in REQUESTS[:2]]
    next(cancelled[0])
    for one in cancelled:
        one.cancel()
    assert [one.result()[0].text for one in streams] == expected
    assert started.load().is_idle


def test_biases_and_penalties_equal_ours(checkpoint: Path, started: TextGenerator) -> None:
    requests = [
        replace(one, presence_penalty=1.5, frequency_penalty=0.5, logit_bias={300: 3.0, 400: -100.0}, logprobs=3)
        for one in REQUESTS
    ]
    ours = TextGenerator(checkpoint, GREEDY).complete(requests)
    assert [one.text for one in ours] != [one.text for one in TextGenerator(checkpoint, GREEDY).complete(REQUESTS)]
    assert_equal(ours, started.complete(requests))


def test_longer_requests_restart_it_with_enough_room(started: TextGenerator) -> None:
    long = started.complete([GenerationRequest(prompt="a b " * 120, max_new_tokens=30)])
    assert long[0].completion_tokens == 30 or long[0].finish_reason == "stop"


def test_a_run_reports_its_engine(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "completions.jsonl"
    report = generate(checkpoint, REQUESTS, output, ON_VLLM)
    assert (report.engine, report.engine_reason, report.completions) == ("vllm", "requested", len(REQUESTS))
    expected = TextGenerator(checkpoint, GREEDY).complete(REQUESTS)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line["completion"] for line in lines] == [one.text for one in expected]
