"""A run that is killed with signal 9 resumes from its finished lines, and produces the same bytes."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_core import CheckpointError, GenerationOptions, GenerationReport, GenerationRequest, Progress, generate
from examples.tiny_checkpoint import make_tiny_checkpoint

pytestmark = pytest.mark.slow  # every test starts several processes

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import torch
from baichuan_core import CheckpointError, GenerationOptions, Progress, generate, read_requests

def die_in_the_middle(progress: Progress) -> None:
    if progress.metrics.get("requests_done", 0) >= 4:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint, prompts, output = map(Path, sys.argv[1:])
torch.set_num_threads({threads})
generate(checkpoint, read_requests(prompts), output, GenerationOptions(**{options}), on_progress=die_in_the_middle)
"""
OPTIONS: dict[str, Any] = {"max_new_tokens": 24, "n": 2, "seed": 5, "batch_size": 3, "device": "cpu", "logprobs": 1}
REQUESTS = [GenerationRequest(prompt=f"{number} " * (1 + number % 4), id=str(number)) for number in range(10)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    run(checkpoint, output)
    return output.read_bytes()


@pytest.fixture(scope="module")
def killed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a killed run has left."""
    folder = tmp_path_factory.mktemp("killed")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": one.prompt, "id": one.id}) + "\n" for one in REQUESTS))
    script = KILLED_RUN.replace("{options}", repr(OPTIONS)).replace("{threads}", str(torch.get_num_threads()))
    process = subprocess.run(
        [sys.executable, "-c", script, *map(str, (checkpoint, prompts, folder / "out.jsonl"))],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not (folder / "out.jsonl").exists()
    return folder


def run(checkpoint: Path, output: Path, **changed: Any) -> GenerationReport:
    options = GenerationOptions(**OPTIONS | changed.pop("options", {}))
    return generate(checkpoint, changed.pop("requests", REQUESTS), output, options, **changed)


def test_the_same_call_resumes_and_produces_the_same_bytes(
    checkpoint: Path, whole: bytes, killed: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(killed, tmp_path / "copy") / "out.jsonl"
    reports: list[Progress] = []
    report = run(checkpoint, output, on_progress=reports.append)
    assert output.read_bytes() == whole
    assert 4 <= report.resumed < report.completions == 20
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [(line["index"], line["sample"]) for line in lines] == [(i, s) for i in range(10) for s in range(2)]
    assert report.completion_tokens == sum(line["completion_tokens"] for line in lines)
    assert report.generated_tokens < report.completion_tokens
    assert {path.name for path in output.parent.iterdir()} == {"out.jsonl", "prompts.jsonl"}


def test_another_path_and_an_incomplete_line_do_not_prevent_resuming(
    checkpoint: Path, whole: bytes, killed: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier.jsonl"
    earlier.write_bytes((killed / "out.jsonl.partial").read_bytes() + b'{"index": 9, "sample": 1, "prom')
    copied = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    report = run(copied, tmp_path / "out.jsonl", partial=tmp_path / "mine", resume_from=earlier)
    assert report.resumed >= 4
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert earlier.exists()
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"options": {"seed": 6}},
        {"options": {"max_new_tokens": 23}},
        {"options": {"n": 1}},
        {"options": {"logprobs": None}},
        {"options": {"stop": ("x",)}},
        {"requests": [*REQUESTS[:-1], replace(REQUESTS[-1], temperature=1.5)]},
        {"requests": [*REQUESTS[1:], REQUESTS[0]]},
        {"requests": [*REQUESTS[:-1], replace(REQUESTS[-1], id="other")]},
    ],
)
def test_lines_of_another_run_are_ignored(
    checkpoint: Path, killed: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    output = shutil.copytree(killed, tmp_path / "copy") / "out.jsonl"
    report = run(checkpoint, output, **changed)
    assert (report.resumed, report.generated_tokens) == (0, report.completion_tokens)
    other = tmp_path / "other.jsonl"
    run(checkpoint, other, **changed)
    assert output.read_bytes() == other.read_bytes()


def test_lines_of_other_weights_are_ignored(checkpoint: Path, killed: Path, tmp_path: Path) -> None:
    output = shutil.copytree(killed, tmp_path / "copy") / "out.jsonl"
    assert run(make_tiny_checkpoint(tmp_path / "other", seed=1), output).resumed == 0


def test_weights_that_differ_in_one_layer_are_distinguished(checkpoint: Path, killed: Path, tmp_path: Path) -> None:
    output = shutil.copytree(killed, tmp_path / "copy") / "out.jsonl"
    other = shutil.copytree(checkpoint, tmp_path / "other")
    (weights,) = other.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[len(content) // 4] ^= 1
    weights.write_bytes(content)
    assert run(other, output).resumed == 0


def test_a_second_run_to_the_same_file_is_rejected_and_changes_nothing(
    checkpoint: Path, whole: bytes, tmp_path: Path
) -> None:
    refused: list[str] = []

    def start_another(progress: Progress) -> None:
        if progress.stage == "generating" and not refused:
            with pytest.raises(CheckpointError, match="another run is writing") as caught:
                run(checkpoint, tmp_path / "out.jsonl")
            refused.append(str(caught.value))

    run(checkpoint, tmp_path / "out.jsonl", on_progress=start_another)
    assert refused
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl"}


def test_a_run_that_fails_before_its_first_line_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (weights,) = broken.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError):
        run(broken, tmp_path / "results" / "out.jsonl")
    assert not list((tmp_path / "results").iterdir())


def test_a_run_that_is_already_finished_loads_no_model(
    checkpoint: Path, whole: bytes, killed: Path, tmp_path: Path
) -> None:
    head = (killed / "out.jsonl.partial").read_bytes().split(b"\n")[0]
    (tmp_path / "out.jsonl.partial").write_bytes(head + b"\n" + whole)
    report = run(checkpoint, tmp_path / "out.jsonl")
    assert (report.resumed, report.generated_tokens) == (20, 0)
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_finished_lines_are_written_immediately(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def look(progress: Progress) -> None:
        if progress.stage == "generating":
            lines = (tmp_path / "out.jsonl.partial").read_text().splitlines()[1:]
            seen.append(len(lines))
            assert len(lines) >= progress.metrics["requests_done"]
            assert all(json.loads(line)["completion"] is not None for line in lines)

    run(checkpoint, tmp_path / "out.jsonl", on_progress=look)
    assert len(set(seen)) > 3
