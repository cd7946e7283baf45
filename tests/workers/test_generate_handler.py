"""The handler of generate jobs, called directly."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from baichuan_core import BaichuanError, Progress
from jobs.specs import GenerateSpec
from jobs.specs.generate import Message
from workers.handlers import generate as handler
from workers.handlers.contract import HandlerContext

SPEC: dict[str, Any] = {"kind": "generate", "model": "tiny", "prompts": ["一", "hello", "b"], "max_new_tokens": 8}


class WorkerLostError(Exception):
    """The attempt's worker is lost."""


def context(
    tmp_path: Path, model: Path, name: str, earlier: list[Path], report: Any = lambda _: None
) -> HandlerContext:
    output, checkpoints = tmp_path / name / "output", tmp_path / name / "checkpoints"
    output.mkdir(parents=True)
    checkpoints.mkdir()
    return HandlerContext({"model": model}, {}, output, checkpoints, earlier, report)


@pytest.mark.slow
def test_a_later_attempt_resumes_from_the_newest_finished_lines(tiny_checkpoint: Path, tmp_path: Path) -> None:
    spec = GenerateSpec(**SPEC, batch_size=1, n=2)

    def lose_after_three(progress: Progress) -> None:
        if progress.metrics.get("requests_done", 0) == 2:
            raise WorkerLostError

    first = context(tmp_path, tiny_checkpoint, "first", [], lose_after_three)
    with pytest.raises(WorkerLostError):
        handler.run(spec, first)
    assert not list(first.output.iterdir())
    never_began = tmp_path / "empty"
    never_began.mkdir()
    second = context(tmp_path, tiny_checkpoint, "second", [never_began, first.checkpoints])
    outcome = handler.run(spec, second)
    whole = context(tmp_path, tiny_checkpoint, "whole", [])
    assert handler.run(spec, whole).result.resumed == 0
    assert outcome.result.resumed == 4
    assert (second.output / handler.COMPLETIONS_FILE).read_bytes() == (
        whole.output / handler.COMPLETIONS_FILE
    ).read_bytes()
    assert list(second.checkpoints.iterdir()) == []
    shutil.rmtree(tmp_path / "first")


def test_the_result_contains_the_engine_and_the_reason(tiny_checkpoint: Path, tmp_path: Path) -> None:
    spec = GenerateSpec(**SPEC, logprobs=2)
    there = context(tmp_path, tiny_checkpoint, "run", [])
    result = handler.run(spec, there).result
    assert result.engine == "transformers"
    assert "transformers" in result.engine_reason
    assert result.chat_format is None
    lines = [json.loads(line) for line in (there.output / handler.COMPLETIONS_FILE).read_text().splitlines()]
    for line in lines:
        end_tokens = line["finish_reason"] == "stop"  # they are no text
        assert len(line["logprobs"]["content"]) == line["completion_tokens"] - end_tokens
        assert all(len(entry["top_logprobs"]) == 2 for entry in line["logprobs"]["content"])


@pytest.mark.parametrize("form", ["baichuan2", "chat_template"])
def test_the_result_states_how_conversations_were_written(tiny_checkpoint: Path, tmp_path: Path, form: str) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    if form == "chat_template":
        (checkpoint / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    conversations = [[Message(role="user", content="Who are you?")]]
    spec = GenerateSpec(kind="generate", model="m", conversations=conversations, max_new_tokens=2)
    assert handler.run(spec, context(tmp_path, checkpoint, "run", [])).result.chat_format == form


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"prompts": ["a", "1" * 600]}, r"prompts\[1\]"),
        (
            {"conversations": [[{"role": "user", "content": "a"}], [{"role": "system", "content": "a"}] * 2]},
            "message 2",
        ),
    ],
)
def test_an_inline_request_that_cannot_be_answered_is_named_by_its_place(
    tiny_checkpoint: Path, tmp_path: Path, given: dict[str, Any], place: str
) -> None:
    spec = GenerateSpec(**{**SPEC, "prompts": None, **given})
    with pytest.raises(BaichuanError, match=place):
        handler.run(spec, context(tmp_path, tiny_checkpoint, "run", []))
