"""Benchmark evaluation: the same results as one question at a time, correct accuracies, and resuming."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_core import (
    BaichuanForCausalLM,
    DatasetError,
    Progress,
    TokenizerError,
    UnsupportedError,
    load_model,
    load_tokenizer,
)
from baichuan_core.evaluation import BenchmarkName, BenchmarkOptions, EvaluatedModel, evaluate_benchmark
from baichuan_core.evaluation.answers import encode_letters
from baichuan_core.evaluation.benchmarks import BENCHMARKS
from baichuan_core.evaluation.exam import read_exams
from examples.tiny_checkpoint import Family, make_tiny_checkpoint

NAMES: tuple[BenchmarkName, ...] = ("ceval", "mmlu", "cmmlu")


class Stop(Exception):  # noqa: N818 - no error: the end of an attempt
    """Simulates the end of a process."""


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]


def alone(checkpoint: Path, data: Path, name: BenchmarkName, shots: list[int]) -> Iterator[list[float]]:
    """Compute log-likelihoods of the letters with separate full forward passes per question."""
    model, tokenizer, benchmark = load_model(checkpoint), load_tokenizer(checkpoint), BENCHMARKS[name]
    exams = read_exams(data, benchmark, split=benchmark.splits[0], shots=5, subjects=None, limit=None)
    asked = [(exam, question) for exam in exams for question in exam.questions]
    for (exam, question), count in zip(asked, shots, strict=True):
        prompt = tokenizer.encode_text(benchmark.format_prompt(exam.subject, exam.examples[:count], question))
        first, *_ = letters = encode_letters(tokenizer, benchmark)
        if all(len(letter) == 1 for letter in letters):
            after = log_probabilities(model, [*prompt, *first])[len(prompt) - 1]
            yield [float(after[letter[0]]) for letter in letters]
        else:
            yield [score(model, prompt, letter) for letter in letters]


@torch.inference_mode()
def log_probabilities(model: BaichuanForCausalLM, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits.float().log_softmax(-1)


def score(model: BaichuanForCausalLM, prompt: list[int], letter: list[int]) -> float:
    log_probs = log_probabilities(model, [*prompt, *letter])
    places = range(len(prompt) - 1, len(prompt) + len(letter) - 1)
    return float(sum(log_probs[place, token] for place, token in zip(places, letter, strict=True)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["baichuan2-7b", "baichuan1-13b"])
def test_sharing_examples_changes_nothing(name: BenchmarkName, family: Family, data: Path, tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny", family=family)
    report = evaluate_benchmark(checkpoint, data / name, tmp_path, BenchmarkOptions(name, batch_tokens=900))
    answers = lines(tmp_path)
    shots = [line["model"]["shots"] for line in answers]
    assert report.model.fewer_shots == sum(count < 5 for count in shots) > 0  # fewer fit into the tiny window
    expected = torch.tensor(list(alone(checkpoint, data / name, name, shots)))
    given = torch.tensor([line["model"]["log_likelihoods"] for line in answers])
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)
    assert [line["model"]["letter"] for line in answers] == ["ABCD"[row] for row in expected.argmax(-1).tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_five_examples_fit_into_a_longer_window(name: BenchmarkName, data: Path, wide: Path, tmp_path: Path) -> None:
    report = evaluate_benchmark(wide, data / name, tmp_path, BenchmarkOptions(name))
    assert (report.shots, report.model.fewer_shots, report.model.total.questions) == (5, 0, 12)
    given = torch.tensor([line["model"]["log_likelihoods"] for line in lines(tmp_path)])
    torch.testing.assert_close(given, torch.tensor(list(alone(wide, data / name, name, [5] * 12))), atol=1e-4, rtol=0)


def learn(checkpoint: Path, data: Path, name: BenchmarkName, target: Path) -> Path:
    """Train a copy of a checkpoint until it answers all questions correctly without examples."""
    model, tokenizer, benchmark = load_model(checkpoint), load_tokenizer(checkpoint), BENCHMARKS[name]
    exams = read_exams(data, benchmark, split=benchmark.splits[0], shots=0, subjects=None, limit=None)
    letters = dict(zip("ABCD", encode_letters(tokenizer, benchmark), strict=True))
    rows = [
        tokenizer.encode_text(benchmark.format_prompt(exam.subject, [], question)) + letters[question.answer]
        for exam in exams
        for question in exam.questions
    ]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        labels[number, len(row) - 1] = row[-1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        loss = model(ids, labels=labels).loss
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    shutil.copytree(checkpoint, target)
    model.save_pretrained(target)
    return target


def test_a_model_trained_on_the_answers_is_correct(data: Path, tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    taught = learn(base, data / "ceval", "ceval", tmp_path / "taught")
    output = tmp_path / "out"
    report = evaluate_benchmark(
        taught,
        data / "ceval",
        output,
        BenchmarkOptions("ceval", shots=0),
        compare_with=EvaluatedModel(base, name="old"),
    )
    assert report.model.total.accuracy == pytest.approx(1)
    assert set(report.model.categories) == {"STEM", "Hard", "Humanities"}
    assert report.compared_with is not None
    assert report.comparison is not None
    wrong = [line for line in lines(output) if line["compared_with"]["letter"] != line["right"]]
    total = report.comparison.total
    assert total.difference == pytest.approx(1 - report.compared_with.total.accuracy) == pytest.approx(len(wrong) / 12)
    assert total.only_model == pytest.approx(total.difference)
    assert total.only_other == 0
    assert 0 < total.low < total.difference < total.high <= 1
    stored = json.loads((output / "evaluation.json").read_text())
    assert stored["comparison"]["total"]["low"] == total.low
    table = (output / "evaluation.md").read_text()
    assert "| **all** | 12 | 100.00 |" in table
    assert "| taught | old |" in table.splitlines()[2]


def test_the_start_of_a_prompt_that_is_too_long_is_cut(
    make_checkpoint: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    narrow = make_checkpoint("narrow", max_position_embeddings=64)
    report = evaluate_benchmark(narrow, data / "cmmlu", tmp_path / "out", BenchmarkOptions("cmmlu"))
    assert report.model.cut == report.model.fewer_shots == 12


def test_an_interrupted_evaluation_resumes_with_the_same_result(data: Path, tmp_path: Path) -> None:
    first, second = (make_tiny_checkpoint(tmp_path / f"tiny-{seed}", seed=seed) for seed in (0, 1))
    options = BenchmarkOptions("mmlu")
    asked = (first, data / "mmlu", tmp_path / "whole", options)
    whole = evaluate_benchmark(*asked, compare_with=second)

    def stop(progress: Progress) -> None:
        if progress.fraction > 0.6:  # in the first subject of the second model
            raise Stop

    with pytest.raises(Stop):
        evaluate_benchmark(*asked, compare_with=second, checkpoints=tmp_path / "steps-1", on_progress=stop)
    assert len(list((tmp_path / "steps-1").iterdir())) == 3
    weights = first / "model.safetensors"
    weights.rename(tmp_path / "hidden")  # the first model does not answer again
    fractions: list[float] = []
    resumed = evaluate_benchmark(
        first,
        data / "mmlu",
        tmp_path / "resumed",
        options,
        compare_with=second,
        checkpoints=tmp_path / "steps-2",
        resume_from=[tmp_path / "steps-1"],
        on_progress=lambda progress: fractions.append(progress.fraction),
    )
    assert resumed == whole
    assert fractions == sorted(fractions)
    for name in ("answers.jsonl", "evaluation.json", "evaluation.md"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_damaged_or_unrelated_saved_answers_are_ignored(data: Path, tmp_path: Path) -> None:
    tiny, steps = make_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "steps"

    def run(options: BenchmarkOptions, output: str, **more: Any) -> Any:
        return evaluate_benchmark(tiny, data / "ceval", tmp_path / output, options, **more)

    run(BenchmarkOptions("ceval"), "a", checkpoints=steps)
    fewer = BenchmarkOptions("ceval", shots=1)
    assert run(fewer, "b", resume_from=[steps]) == run(fewer, "c")
    for file in steps.iterdir():
        file.write_text(file.read_text()[:-20])
    assert run(BenchmarkOptions("ceval"), "d", resume_from=[steps]) == run(BenchmarkOptions("ceval"), "e")


def test_models_with_the_same_name_do_not_share_saved_answers(data: Path, tmp_path: Path) -> None:
    one, other = (make_tiny_checkpoint(tmp_path / str(seed) / "tiny", seed=seed) for seed in (0, 1))
    options = BenchmarkOptions("ceval", shots=1)
    evaluate_benchmark(
        one, data / "ceval", tmp_path / "out", options, compare_with=other, checkpoints=tmp_path / "steps"
    )
    for line in lines(tmp_path / "out"):
        assert line["model"]["log_likelihoods"] != line["compared_with"]["log_likelihoods"]


def test_invalid_options_are_rejected(data: Path, tmp_path: Path) -> None:
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    with pytest.raises(UnsupportedError, match="CMMLU has no split 'val': use test"):
        evaluate_benchmark(tiny, data / "cmmlu", tmp_path / "out", BenchmarkOptions("cmmlu", split="val"))
    with pytest.raises(DatasetError, match="nowhere cannot be read"):
        evaluate_benchmark(tiny, data / "nowhere", tmp_path / "out", BenchmarkOptions("ceval"))
    with pytest.raises(UnsupportedError, match="shots is -1"):
        BenchmarkOptions("ceval", shots=-1)
    with pytest.raises(UnsupportedError, match="limit is 0"):
        BenchmarkOptions("ceval", limit=0)
    with pytest.raises(UnsupportedError, match="subjects is empty"):
        BenchmarkOptions("ceval", subjects=[])
    (tiny / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        evaluate_benchmark(tiny, data / "ceval", tmp_path / "out", BenchmarkOptions("ceval"))
