"""File layout, prompts and averaging of C-Eval, MMLU and CMMLU."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from baichuan_core.errors import UnsupportedError

from .questions import ANSWER_LETTERS, Question

BenchmarkName = Literal["ceval", "mmlu", "cmmlu"]
Split = Literal["val", "test"]
EXAMPLES_FOLDER = "dev"  # the folder with the few-shot examples in all three benchmarks


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject of a benchmark; `name` is its name in prompts."""

    name: str
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published multiple-choice benchmark.

    Attributes:
        name: Name in options.
        title: Name in reports and messages.
        splits: Splits that can be evaluated; the first one is the split that results are usually reported on.
        suffixed: Whether file names contain the split (`dev/law_dev.csv`) or only their folder does (`dev/law.csv`).
        header: Whether the first line of a file contains the column names.
        averaging: Whether category and total accuracies are means over questions or over the subjects' accuracies.
        description: First line of a prompt, with a placeholder for the subject's name.
        before_question: Text before each question.
        cue: Last line of a question, directly before the answer.
        before_letter: Text between the cue and the letter.
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

    def get_subjects(self) -> Mapping[str, Subject]:
        """Return the published subjects by file name."""
        return _load_subjects(self.name)

    def get_csv_path(self, subject: str, split: str) -> str:
        """Return the path of a subject's questions, relative to the benchmark's folder."""
        return f"{split}/{subject}_{split}.csv" if self.suffixed else f"{split}/{subject}.csv"

    def format_prompt(self, subject: str, examples: Sequence[Question], question: Question) -> str:
        """Return the prompt in the published format; the model's next token is the letter of its answer."""
        shown = "".join(
            f"{self._format_question(example)}{self.before_letter}{example.answer}\n\n" for example in examples
        )
        return self.description.format(self.get_subjects()[subject].name) + shown + self._format_question(question)

    def _format_question(self, question: Question) -> str:
        choices = "".join(f"\n{letter}. {text}" for letter, text in zip(ANSWER_LETTERS, question.choices, strict=True))
        return f"{self.before_question}{question.text}{choices}{self.cue}"


# Follows the README and code/evaluator_series in hkust-nlp/ceval. The answers to its test split were never published.
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
# Follows evaluate.py in hendrycks/test, which puts two spaces before the subject.
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
# Follows src/mp_utils.py in haonan-li/CMMLU.
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


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark with the given name.

    Raises:
        UnsupportedError: No benchmark has this name.
    """
    if name not in BENCHMARKS:
        raise UnsupportedError(f"unknown benchmark {name!r}: use one of {', '.join(get_args(BenchmarkName))}")
    return BENCHMARKS[name]


@cache
def _load_subjects(name: BenchmarkName) -> Mapping[str, Subject]:
    content = (files("baichuan_core.evaluation") / "subjects" / f"{name}.json").read_text(encoding="utf-8")
    return {key: Subject(item["name"], tuple(item["categories"])) for key, item in json.loads(content).items()}
