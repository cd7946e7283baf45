"""A list of end tokens may contain ordinary tokens: they end an answer in every engine and are not part of its text."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from baichuan_core import GenerationOptions, GenerationRequest, TextGenerator, convert
from baichuan_core.generation import Completion, TextDelta
from baichuan_core.generation.engines.choice import EngineChoice
from baichuan_core.generation.engines.vllm import engine as vllm_engine
from examples.tiny_checkpoint import make_tiny_checkpoint

GREEDY = GenerationOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=12, logprobs=0)
REQUEST = GenerationRequest(prompt="Redis only carries")


@dataclass
class FakeVllm:
    """A fake of vLLM's engine, which returns scripted tokens one by one, including the end token."""

    script: Sequence[int]
    waiting: list[str] = field(default_factory=list)

    def add_request(self, name: str, _prompt: Any, _params: Any) -> None:
        self.waiting.append(name)

    def step(self) -> list[Any]:
        def output(name: str) -> Any:
            logprobs = [{token: type("Logprob", (), {"logprob": -1.0})} for token in self.script]
            news = type("News", (), {"token_ids": list(self.script), "logprobs": logprobs})
            return type("Output", (), {"request_id": name, "outputs": [news], "finished": True})

        finished, self.waiting = self.waiting, []
        return [output(name) for name in finished]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def answer_and_stream(generator: TextGenerator) -> tuple[Completion, str]:
    (whole,) = generator.complete([REQUEST])
    streamed = "".join(one.text for one in generator.stream([REQUEST]) if isinstance(one, TextDelta))
    return whole, streamed


def with_second_end_token(
    checkpoint: Path, directory: Path, token_id: int, file: str = "generation_config.json"
) -> Path:
    """Copy a checkpoint, and set two end tokens in only one of its files."""
    shutil.copytree(checkpoint, directory)
    for name in ("generation_config.json", "config.json"):
        settings = json.loads((directory / name).read_text())
        settings.pop("eos_token_id", None)
        if name == file:
            settings["eos_token_id"] = [2, token_id]
        (directory / name).write_text(json.dumps(settings))
    return directory


def test_a_list_in_config_json_only_is_used(checkpoint: Path, tmp_path: Path) -> None:
    (whole,) = TextGenerator(checkpoint, GREEDY).complete([REQUEST])
    ids = [one.token_id for one in whole.logprobs or ()]
    directory = with_second_end_token(checkpoint, tmp_path / "two-ends", ids[4], "config.json")
    (completion,) = TextGenerator(directory, GREEDY).complete([REQUEST])
    assert (completion.finish_reason, completion.completion_tokens) == ("stop", ids.index(ids[4]) + 1)


@pytest.mark.parametrize("engine", ["transformers", "llama_cpp", "vllm"])
def test_an_ordinary_end_token_is_not_in_the_text(
    checkpoint: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = TextGenerator(checkpoint, GREEDY)
    (whole,) = free.complete([REQUEST])
    ids = [one.token_id for one in whole.logprobs or ()]
    end = next(place for place in range(3, len(ids)) if ids[place] not in ids[:place] and ids[place] != 2)
    assert ids[end] not in free.tokenizer.all_special_ids
    expected = free.tokenizer.decode(ids[:end])
    directory = with_second_end_token(checkpoint, tmp_path / "two-ends", ids[end])
    if engine == "llama_cpp":
        convert(directory, tmp_path / "gguf", "gguf", gguf_type="f32")
        directory = tmp_path / "gguf"
    generator = TextGenerator(directory, GREEDY)
    if engine == "vllm":
        use_vllm(generator, FakeVllm(ids[: end + 1]), monkeypatch)
    completion, streamed = answer_and_stream(generator)
    assert completion.text == streamed == expected
    assert (completion.finish_reason, completion.completion_tokens) == ("stop", end + 1)
    assert [one.token_id for one in completion.logprobs or ()] == ids[:end]


def use_vllm(generator: TextGenerator, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use our engine with a fake of vLLM, which is not installed in most test runs."""
    module, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    module.SamplingParams = params.RequestOutputKind = _AnyParameters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    monkeypatch.setattr(vllm_engine, "_start_vllm", lambda _arguments: fake)
    generator.choice = EngineChoice("vllm", "a fake of it is installed")


class _AnyParameters:
    DELTA = "delta"

    def __init__(self, **_: Any) -> None:
        pass
