"""Prompts equal those of the published code, and letters are encoded as the tokens that follow them."""

from pathlib import Path

import pytest

from baichuan_core import UnsupportedError, load_tokenizer
from baichuan_core.evaluation.answers import encode_letters, encode_prompts
from baichuan_core.evaluation.benchmarks import BENCHMARKS, CEVAL, CMMLU, MMLU, Benchmark, get_benchmark
from baichuan_core.evaluation.exam import SubjectExam
from baichuan_core.evaluation.questions import Question
from examples.tiny_checkpoint import make_tiny_checkpoint

EXAMPLE = Question("1 + 1?", ("1", "2", "3", "4"), "B")
ASKED = Question("2 + 2?", ("2", "3", "4", "5"), "C")


def test_the_prompt_of_ceval() -> None:
    assert CEVAL.format_prompt("logic", [EXAMPLE], ASKED) == (
        "以下是中国关于逻辑学考试的单项选择题，请选出其中的正确答案。\n\n"
        "1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\n答案：B\n\n"
        "2 + 2?\nA. 2\nB. 3\nC. 4\nD. 5\n答案："
    )


def test_the_prompt_of_mmlu() -> None:
    assert MMLU.format_prompt("formal_logic", [EXAMPLE], ASKED) == (
        "The following are multiple choice questions (with answers) about  formal logic.\n\n"
        "1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        "2 + 2?\nA. 2\nB. 3\nC. 4\nD. 5\nAnswer:"
    )


def test_the_prompt_of_cmmlu() -> None:
    assert CMMLU.format_prompt("logical", [EXAMPLE], ASKED) == (
        "以下是关于逻辑学的单项选择题，请直接给出正确答案的选项。\n\n"
        "题目：1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\n答案是：B\n\n"
        "题目：2 + 2?\nA. 2\nB. 3\nC. 4\nD. 5\n答案是："
    )


@pytest.mark.parametrize(
    ("benchmark", "sizes"),
    [
        (CEVAL, {"STEM": 20, "Social Science": 10, "Humanities": 11, "Other": 11, "Hard": 8}),
        (MMLU, {"STEM": 18, "humanities": 13, "social sciences": 12, "other (business, health, misc.)": 14}),
        (CMMLU, {"STEM": 17, "Humanities": 13, "Social Science": 22, "Other": 15, "China specific": 15}),
    ],
)
def test_numbers_of_subjects_and_categories_are_as_published(benchmark: Benchmark, sizes: dict[str, int]) -> None:
    found: dict[str, int] = {}
    for subject in benchmark.get_subjects().values():
        for category in subject.categories:
            found[category] = found.get(category, 0) + 1
    assert found == sizes


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_letters_are_the_tokens_that_end_an_example(benchmark: Benchmark, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tiny_checkpoint(tmp_path))
    prompt = tokenizer.encode_text(benchmark.format_prompt(next(iter(benchmark.get_subjects())), [], ASKED))
    for letter, ids in zip("ABCD", encode_letters(tokenizer, benchmark), strict=True):
        assert str(tokenizer.decode([*prompt, *ids])).endswith(f"{benchmark.cue}{benchmark.before_letter}{letter}")
        assert str(tokenizer.decode(ids)).strip() == letter


def test_examples_are_dropped_from_the_end_until_the_prompt_fits(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tiny_checkpoint(tmp_path))
    letters = encode_letters(tokenizer, CEVAL)
    exam = SubjectExam("logic", [EXAMPLE, ASKED], [ASKED])
    lengths = [
        len(tokenizer.encode_text(CEVAL.format_prompt("logic", exam.examples[:shots], ASKED))) for shots in range(3)
    ]
    for shots, length in enumerate(lengths):
        (prompt,) = encode_prompts(tokenizer, CEVAL, exam, window=length, letters=letters)
        assert (prompt.shots, prompt.cut, len(prompt.token_ids)) == (shots, False, length)
        if shots:
            (prompt,) = encode_prompts(tokenizer, CEVAL, exam, window=length - 1, letters=letters)
            assert prompt.shots == shots - 1
    (prompt,) = encode_prompts(tokenizer, CEVAL, exam, window=lengths[0] - 1, letters=letters)
    assert (prompt.shots, prompt.cut) == (0, True)
    assert list(prompt.token_ids) == tokenizer.encode_text(CEVAL.format_prompt("logic", [], ASKED))[1:]


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'arc': use one of ceval, mmlu, cmmlu"):
        get_benchmark("arc")
