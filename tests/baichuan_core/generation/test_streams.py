"""Requests submitted from threads and event loops run in one batch; each caller gets its own text."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baichuan_core import CheckpointError, GenerationOptions, GenerationRequest, PromptError, TextGenerator
from baichuan_core.errors import UnsupportedError
from baichuan_core.generation import Completion, TextDelta
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.generation.engines.outputs import StepOutputs
from baichuan_core.generation.mailbox import Mailbox
from examples.tiny_checkpoint import make_tiny_checkpoint

SAMPLED = GenerationOptions(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=12, seed=3, batch_size=4)
REQUESTS = [
    *(GenerationRequest(prompt=prompt) for prompt in ("a", "Redis only carries", "任务", "x y z " * 20)),
    GenerationRequest(messages=[{"role": "user", "content": "What is a queue?"}], n=2),
]
ENDLESS = GenerationRequest(prompt="a", max_new_tokens=450, logit_bias={2: -100})
UNFINISHED_AT_EXIT = """
import sys
from baichuan_core import GenerationOptions, GenerationRequest, TextGenerator
generator = TextGenerator(sys.argv[1], GenerationOptions(device="cpu"))
stream = generator.submit(GenerationRequest(prompt="a", max_new_tokens=450))
print(next(stream).text is not None)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def generator(checkpoint: Path) -> TextGenerator:
    return TextGenerator(checkpoint, SAMPLED)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[list[Completion]]:
    """Return the answer to each request alone."""
    return [TextGenerator(checkpoint, SAMPLED).complete([request]) for request in REQUESTS]


@pytest.fixture
def steps(generator: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Record how many completions advance in each step of our engine."""
    seen: list[int] = []
    step = NativeEngine.step

    def recorded(self: NativeEngine) -> StepOutputs:
        found = step(self)
        seen.append(len({one.id for one in found.outputs}))
        return found

    monkeypatch.setattr(NativeEngine, "step", recorded)
    yield seen
    monkeypatch.undo()


def list_completions(events: list[TextDelta | Completion]) -> list[Completion]:
    return sorted((one for one in events if isinstance(one, Completion)), key=lambda one: one.sample)


def join_texts(events: list[TextDelta | Completion]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            texts[event.sample] = texts.get(event.sample, "") + event.text
    return texts


def test_a_stream_has_the_whole_text_and_ends_with_the_completions(
    generator: TextGenerator, expected: list[list[Completion]]
) -> None:
    for request, alone in zip(REQUESTS, expected, strict=True):
        events = list(generator.submit(request))
        assert list_completions(events) == alone
        assert join_texts(events) == {one.sample: one.text for one in alone}
        assert generator.submit(request).result() == alone


def test_many_threads_share_the_batch(
    generator: TextGenerator, expected: list[list[Completion]], steps: list[int]
) -> None:
    together = threading.Barrier(len(REQUESTS))

    def answer(request: GenerationRequest) -> list[Completion]:
        together.wait()
        return generator.submit(request).result()

    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        assert list(pool.map(answer, REQUESTS)) == expected
        assert list(pool.map(answer, REQUESTS)) == expected
    assert max(steps) > 1


def test_an_event_loop_reads_many_streams_at_once(generator: TextGenerator, expected: list[list[Completion]]) -> None:
    async def read(request: GenerationRequest) -> list[TextDelta | Completion]:
        return [event async for event in generator.submit(request)]

    async def read_all() -> list[list[TextDelta | Completion]]:
        return await asyncio.gather(*map(read, REQUESTS))

    for events, alone in zip(asyncio.run(read_all()), expected, strict=True):
        assert list_completions(events) == alone
        assert join_texts(events) == {one.sample: one.text for one in alone}


def test_runs_and_streams_work_at_the_same_time(generator: TextGenerator, expected: list[list[Completion]]) -> None:
    endless = generator.submit(ENDLESS)
    next(endless)
    whole = generator.complete(REQUESTS)
    assert [replace(one, index=0) for one in whole] == [one for alone in expected for one in alone]
    assert isinstance(next(endless), TextDelta)
    endless.cancel()


def test_probabilities_come_with_the_text(generator: TextGenerator) -> None:
    counts = []
    for seed in range(5):
        request = GenerationRequest(prompt="a", logprobs=2, stop=["你", "e"], seed=seed, logit_bias={2: -100})
        *deltas, completion = generator.submit(request)
        assert isinstance(completion, Completion)
        assert tuple(one for delta in deltas for one in delta.logprobs or ()) == completion.logprobs
        assert all(len(one.alternatives) == 2 for one in completion.logprobs or ())
        counts.append(len(deltas))
    assert max(counts) > 4


def test_a_cancelled_stream_ends_and_frees_its_slot(generator: TextGenerator, steps: list[int]) -> None:
    streams = [generator.submit(ENDLESS) for _ in range(SAMPLED.batch_size)]
    for stream in streams:
        next(stream)
    waiting = generator.submit(REQUESTS[0])
    for stream in streams:
        stream.cancel()
        assert len(list(stream)) <= 2  # at most the step that had been read already
    assert waiting.result()
    assert generator.load().is_idle
    assert len(steps) < 400


def test_a_waiting_reader_is_notified_of_the_end(generator: TextGenerator) -> None:
    stream = generator.submit(ENDLESS)
    next(stream)
    read: list[Any] = []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    stream.cancel()
    reader.join()
    assert not any(isinstance(one, Completion) for one in read)


def test_a_stream_that_is_no_longer_referenced_is_cancelled(generator: TextGenerator) -> None:
    streams = [generator.submit(ENDLESS) for _ in range(2 * SAMPLED.batch_size)]
    next(streams[0])
    del streams
    gc.collect()
    assert generator.submit(REQUESTS[0]).result()
    assert generator.load().is_idle


def test_requests_that_cannot_be_answered_are_rejected_immediately(generator: TextGenerator) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        generator.submit(GenerationRequest(prompt=""))
    with pytest.raises(PromptError, match=r"logit_bias contains token 999999, but .* largest token id is"):
        generator.submit(GenerationRequest(prompt="a", logit_bias={999999: 1.0}))


def test_an_error_of_the_engine_reaches_every_caller_and_the_next_request_is_answered(
    generator: TextGenerator, expected: list[list[Completion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [generator.submit(replace(ENDLESS, seed=number)) for number in range(2)]
    for stream in streams:
        next(stream)

    def break_down(_self: NativeEngine) -> StepOutputs:
        raise CheckpointError("the model is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(NativeEngine, "step", break_down)
        for stream in streams:
            with pytest.raises(CheckpointError, match="damaged"):
                list(stream)
    assert generator.submit(REQUESTS[0]).result() == expected[0]


def test_closing_a_generator_fails_running_requests_and_the_next_one_loads_again(
    checkpoint: Path, expected: list[list[Completion]]
) -> None:
    generator = TextGenerator(checkpoint, SAMPLED)
    generator.close()
    stream = generator.submit(ENDLESS)
    next(stream)
    generator.close()
    with pytest.raises(UnsupportedError, match="was closed before"):
        list(stream)
    stream.cancel()
    assert generator.submit(REQUESTS[0]).result() == expected[0]


def test_nothing_remains_when_a_generator_is_freed(checkpoint: Path) -> None:
    before = set(threading.enumerate())
    generator = TextGenerator(checkpoint, SAMPLED)
    generator.submit(REQUESTS[0]).result()
    (thread,) = set(threading.enumerate()) - before
    del generator
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_a_process_can_exit_while_a_request_is_running(checkpoint: Path) -> None:
    command = [sys.executable, "-c", UNFINISHED_AT_EXIT, str(checkpoint)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_mailbox_returns_everything_in_order_and_then_the_error() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.put(2)
    mailbox.close(ValueError("broken"))
    mailbox.close()
    mailbox.put(3)
    assert [mailbox.get(), asyncio.run(mailbox.aget())] == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            mailbox.get()


def test_a_task_that_stops_waiting_loses_nothing() -> None:
    async def read(mailbox: Mailbox[int]) -> int:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(mailbox.aget(), 0.01)
        threading.Thread(target=lambda: mailbox.put(7)).start()
        return await mailbox.aget()

    assert asyncio.run(read(Mailbox())) == 7
