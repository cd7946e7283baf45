"""Several open batches on one model: they take turns, and each answers as it would alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from baichuan_core import GenerationOptions, GenerationRequest, TextGenerator
from baichuan_core.generation import generate
from baichuan_core.generation.engines.native.cache import SlotCache
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.generation.engines.native.lanes import MAX_LANES
from examples.tiny_checkpoint import make_tiny_checkpoint

pytestmark = pytest.mark.slow  # every test generates long texts

RUN = GenerationOptions(temperature=1.0, top_k=0, max_new_tokens=60, seed=3, batch_size=2)
CHAT = GenerationOptions(temperature=0.0, max_new_tokens=9, batch_size=3)
PROMPTS = [
    GenerationRequest(prompt=prompt, logit_bias={2: -100}) for prompt in ("a", "Redis only carries", "任务", "b")
]
QUESTIONS = [
    GenerationRequest(messages=[{"role": "user", "content": "What is a queue?"}]),
    GenerationRequest(prompt="one two three", temperature=0.9, seed=7, n=2),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def generator(checkpoint: Path) -> Iterator[TextGenerator]:
    made = TextGenerator(checkpoint, RUN)
    yield made
    made.close()


def test_both_lanes_answer_as_they_would_alone(checkpoint: Path, generator: TextGenerator) -> None:
    expected = TextGenerator(checkpoint, RUN).complete(PROMPTS)
    answers = [TextGenerator(checkpoint, CHAT).complete([question]) for question in QUESTIONS]
    lane = generator.open_lane(CHAT)
    steps = generator.run(generator.encode(PROMPTS))
    streams = [lane.submit(question) for question in QUESTIONS]
    assert [stream.result() for stream in streams] == answers
    found = sorted((one for step in steps for one in step.completions), key=lambda one: one.index)
    assert found == expected


def test_a_chat_does_not_wait_for_a_full_batch(generator: TextGenerator) -> None:
    lane = generator.open_lane(CHAT)
    endless = GenerationRequest(prompt="a", max_new_tokens=450, logit_bias={2: -100})
    steps = generator.run(generator.encode([endless] * 2))
    assert lane.submit(QUESTIONS[0]).result()
    ended = [one for step in steps for one in step.completions]
    assert [one.completion_tokens for one in ended] == [450, 450]


def test_closing_a_lane_leaves_the_model_loaded(generator: TextGenerator) -> None:
    generator.open_lane(CHAT).close()
    assert len(generator.complete(PROMPTS)) == len(PROMPTS)


def test_the_number_of_lanes_is_limited(generator: TextGenerator) -> None:
    for _ in range(MAX_LANES - 1):
        generator.open_lane(CHAT)
    with pytest.raises(ValueError, match=f"at most {MAX_LANES}"):
        generator.open_lane(CHAT)


def test_chats_give_way_before_the_run_lacks_memory(
    checkpoint: Path, generator: TextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = TextGenerator(checkpoint, RUN).complete(PROMPTS)
    answer = TextGenerator(checkpoint, CHAT).complete(QUESTIONS[:1])
    lane = generator.open_lane(CHAT)
    stream = lane.submit(QUESTIONS[0])
    next(iter(stream))
    chats = {id(engine) for engine in generator.load()._engines[1:]}  # type: ignore[attr-defined]
    step, resize = NativeEngine.step, SlotCache.resize
    stepping: list[NativeEngine] = []
    refused: list[int] = []

    def recorded(self: NativeEngine) -> object:
        stepping.append(self)
        try:
            return step(self)
        finally:
            stepping.pop()

    def lacking(self: SlotCache, *arguments: object) -> None:
        others = [one for one in generator.load()._engines if one is not stepping[-1]]  # type: ignore[attr-defined]
        if id(stepping[-1]) not in chats and any(one._slots.allocated_slots for one in others):
            refused.append(1)
            raise torch.OutOfMemoryError
        resize(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(NativeEngine, "step", recorded)
    monkeypatch.setattr(SlotCache, "resize", lacking)
    assert generator.complete(PROMPTS) == expected
    assert refused
    assert stream.result() == answer


def test_a_run_keeps_its_block_open_until_its_last_completion(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []

    @contextmanager
    def alongside(loaded: TextGenerator) -> Iterator[None]:
        said.append("open")
        lane = loaded.open_lane(CHAT)
        yield
        said.append(lane.submit(QUESTIONS[0]).result()[0].text)

    output = tmp_path / "completions.jsonl"
    report = generate(checkpoint, PROMPTS, output, RUN, alongside=alongside)
    assert report.completions == len(PROMPTS)
    assert said == ["open", TextGenerator(checkpoint, CHAT).complete(QUESTIONS[:1])[0].text]
