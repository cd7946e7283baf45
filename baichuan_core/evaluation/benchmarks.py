"""C-Eval, MMLU and CMMLU: how each lays out its files, writes its prompts and averages its subjects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from baichuan_core.errors import UnsupportedError

from .questions import LETTERS, Question

BenchmarkName = Literal["ceval", "mmlu", "cmmlu"]
Split = Literal["val", "test"]
EXAMPLES = "dev"  # the folder that all three take their few-shot examples from


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject as its publisher lists it: `name` is what prompts call it."""

    name: str
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published multiple-choice benchmark.

    Attributes:
        name: Its name in options.
        title: Its name for people.
        splits: Those that can be evaluated, the one that results are reported on first.
        suffixed: Whether the split is part of a file's name (`dev/law_dev.csv`) or only of its folder (`dev/law.csv`).
        header: Whether the first line of a file names its columns.
        averaging: What a category and the total are means of: their questions, or their subjects' accuracies.
        description: First line of a prompt, with a place for the subject's name.
        before_question: What stands before each question.
        cue: Last line of a question, after which the answer comes.
        before_letter: What stands between the cue and the letter.
    """

    name: BenchmarkName
    title: str
    splits: tuple[Split, ...]
    suffixed: bool
    header: bool
    averaging: Literal["questions", "subjects"]
    description: str
    before_question: str
    cue: str
    before_letter: str

    def subjects(self) -> Mapping[str, Subject]:
        """The published subjects, by the names of their files."""
        return _subjects(self.name)

    def file_name(self, subject: str, split: str) -> str:
        """Where the questions of a subject are, below the benchmark's folder."""
        return f"{split}/{subject}_{split}.csv" if self.suffixed else f"{split}/{subject}.csv"

    def prompt(self, subject: str, examples: Sequence[Question], question: Question) -> str:
        """The prompt whose next token is the answer's letter, as published."""
        shown = "".join(f"{self._ask(example)}{self.before_letter}{example.answer}\n\n" for example in examples)
        return self.description.format(self.subjects()[subject].name) + shown + self._ask(question)

    def _ask(self, question: Question) -> str:
        choices = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=True))
        return f"{self.before_question}{question.text}{choices}{self.cue}"


# README and code/evaluator_series of hkust-nlp/ceval. Labels of its test split were never published.
CEVAL = Benchmark(
    name="ceval",
    title="C-Eval",
    splits=("val", "test"),
    suffixed=True,
    header=True,
    averaging="subjects",
    description="以下是中国关于{}考试的单项选择题，请选出其中的正确答案。\n\n",
    before_question="",
    cue="\n答案：",
    before_letter="",
)
# evaluate.py of hendrycks/test, which puts two spaces before the subject.
MMLU = Benchmark(
    name="mmlu",
    title="MMLU",
    splits=("test", "val"),
    suffixed=True,
    header=False,
    averaging="questions",
    description="The following are multiple choice questions (with answers) about  {}.\n\n",
    before_question="",
    cue="\nAnswer:",
    before_letter=" ",
)
# src/mp_utils.py of haonan-li/CMMLU.
CMMLU = Benchmark(
    name="cmmlu",
    title="CMMLU",
    splits=("test",),
    suffixed=False,
    header=True,
    averaging="subjects",
    description="以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n",
    before_question="题目：",
    cue="\n答案是：",
    before_letter="",
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in (CEVAL, MMLU, CMMLU)}


def benchmark_named(name: str) -> Benchmark:
    """One of the three.

    Raises:
        UnsupportedError: There is none of this name.
    """
    if name not in BENCHMARKS:
        raise UnsupportedError(f"there is no benchmark {name!r}: use one of {', '.join(get_args(BenchmarkName))}")
    return BENCHMARKS[name]


@cache
def _subjects(name: BenchmarkName) -> Mapping[str, Subject]:
    content = (files("baichuan_core.evaluation") / "subjects" / f"{name}.json").read_text(encoding="utf-8")
    return {key: Subject(item["name"], tuple(item["categories"])) for key, item in json.loads(content).items()}
