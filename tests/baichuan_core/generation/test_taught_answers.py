"""The premises of the sample workflow: noise before training, and every taught answer after it, even when quantized."""

import json
from pathlib import Path
from typing import Any

import pytest

from baichuan_core import (
    FinetuningOptions,
    GenerationOptions,
    GenerationRequest,
    QuantizationOptions,
    convert,
    finetune,
    generate,
    quantize,
)
from baichuan_core.quantization import QuantizationMethod
from examples.tiny_checkpoint import CONVERSATIONS, SAMPLE_TRAINING, make_tiny_checkpoint, taught_answers

pytestmark = pytest.mark.slow  # trains a model first

EXCHANGES = taught_answers()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tuned")
    options = FinetuningOptions(**SAMPLE_TRAINING)
    finetune(base, CONVERSATIONS, directory / "checkpoint", options, checkpoints=directory / "steps")
    return directory / "checkpoint"


def answers(checkpoint: Path, directory: Path) -> list[str]:
    requests = [GenerationRequest(messages=messages) for messages, _ in EXCHANGES]
    generate(checkpoint, requests, directory / "answers.jsonl", GenerationOptions(temperature=0))
    lines: list[dict[str, Any]] = [json.loads(line) for line in (directory / "answers.jsonl").read_text().splitlines()]
    return [line["completion"] for line in lines]


def test_the_untrained_model_answers_noise(base: Path, tmp_path: Path) -> None:
    assert not set(answers(base, tmp_path)) & {answer for _, answer in EXCHANGES}


def test_every_taught_answer_is_given(tuned: Path, tmp_path: Path) -> None:
    assert answers(tuned, tmp_path) == [answer for _, answer in EXCHANGES]


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
def test_taught_answers_survive_quantization(tuned: Path, tmp_path: Path, method: QuantizationMethod) -> None:
    quantize(tuned, tmp_path / "quantized", QuantizationOptions(method=method))
    assert answers(tuned, tmp_path) == answers(tmp_path / "quantized", tmp_path)


def test_taught_answers_survive_conversion(tuned: Path, tmp_path: Path) -> None:
    convert(tuned, tmp_path / "converted", "baichuan1")
    assert answers(tuned, tmp_path) == answers(tmp_path / "converted", tmp_path)
