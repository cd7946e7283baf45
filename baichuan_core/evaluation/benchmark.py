"""C-Eval, MMLU and CMMLU: from checkpoints and data to a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.checkpoint import load_tokenizer, make_directory, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.errors import UnsupportedError
from baichuan_core.free_memory import release_memory
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress, part_of
from baichuan_core.tokenizer import BaichuanTokenizer

from .answers import Answer, answer_questions, encode_paper, letter_ids
from .benchmark_files import write_benchmark_files
from .benchmark_report import BenchmarkReport, benchmark_report
from .benchmarks import Benchmark, Split, benchmark_named
from .exam import Paper, read_exam
from .loading import load_evaluated
from .options import BenchmarkOptions, EvaluatedModel
from .saved_answers import SavedAnswers, key_of


def evaluate_benchmark(
    model: EvaluatedModel | Path | str,
    data: Path | str,
    output: Path | str,
    options: BenchmarkOptions,
    *,
    compare_with: EvaluatedModel | Path | str | None = None,
    checkpoints: Path | str | None = None,
    resume_from: Sequence[Path] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> BenchmarkReport:
    """Ask a model, or two of them one after the other, the questions of a multiple-choice benchmark.

    Prompts are those of the benchmark's own code, and the answer is the letter whose log-likelihood after the prompt
    is greatest. `output` gets `evaluation.json` (what is returned), `evaluation.md` (the same as a table) and
    `answers.jsonl` (every question's answers).

    Args:
        model: Directory of a checkpoint, quantized ones included, or an `EvaluatedModel` with an adapter.
        data: The benchmark in its published layout: a directory, or a .zip or .tar file.
        output: Directory for the results.
        options: Which benchmark, and what differs from the published way of asking.
        compare_with: A model that is asked the same, for example the one that `model` was quantized from.
        checkpoints: Directory for the answers given so far, a file a subject; of this evaluation alone.
        resume_from: Such directories of interrupted runs; what is answered there is not asked again.
        on_progress: Told about the stages `loading`, `scoring` and `writing`.

    Raises:
        DatasetError: The data is missing, malformed or of another benchmark; the message names file and line.
        TokenizerError: A checkpoint has no tokenizer.
        CheckpointError: A checkpoint or adapter cannot be used, computes NaN, or `output` cannot be written.
        UnsupportedError: There is no such benchmark or split, or a tokenizer has no token for a letter.
    """
    output, benchmark = Path(output), benchmark_named(options.benchmark)
    split = _split(benchmark, options.split)
    make_directory(output)
    on_progress(Progress(0.0, "loading"))
    papers = read_exam(
        Path(data), benchmark, split=split, shots=options.shots, subjects=options.subjects, limit=options.limit
    )
    saved = SavedAnswers(Path(checkpoints) if checkpoints is not None else None, resume_from)
    models = [EvaluatedModel.of(one) for one in (model, compare_with) if one is not None]
    tokenizers = [load_tokenizer(one.checkpoint) for one in models]
    letters = [letter_ids(tokenizer, benchmark) for tokenizer in tokenizers]  # errors come before the work
    sittings = [
        _Sitting(number, *of_model, benchmark, papers, options, saved)
        for number, of_model in enumerate(zip(models, tokenizers, letters, strict=True))
    ]
    answers = [
        _sit(one, part_of(on_progress, one.number / len(models), (one.number + 1) / len(models))) for one in sittings
    ]
    on_progress(Progress(1.0, "writing"))
    names = [one.shown for one in models]
    report = benchmark_report(benchmark, split, options.shots, list(zip(names, answers, strict=True)))
    write_benchmark_files(report, answers, output)
    return report


@dataclass(frozen=True, slots=True)
class _Sitting:
    """A model and what it is asked; `number` tells the models of an evaluation apart, whatever they are called."""

    number: int
    model: EvaluatedModel
    tokenizer: BaichuanTokenizer
    letters: Sequence[Sequence[int]]
    benchmark: Benchmark
    papers: Sequence[Paper]
    options: BenchmarkOptions
    saved: SavedAnswers


def _split(benchmark: Benchmark, wanted: Split | None) -> Split:
    if wanted is not None and wanted not in benchmark.splits:
        raise UnsupportedError(f"{benchmark.title} has no split {wanted!r}: use {' or '.join(benchmark.splits)}")
    return wanted or benchmark.splits[0]


def _sit(sitting: _Sitting, on_progress: ProgressCallback) -> dict[str, list[Answer]]:
    """The answers by subject; the model is loaded when the first question is open, and gone afterwards."""
    checkpoint, options, letters = Path(sitting.model.checkpoint), sitting.options, sitting.letters
    name = f"{sitting.number} {sitting.model.shown} {options.dtype}"
    window = read_config(checkpoint).model_max_length or DEFAULT_CONTEXT_LENGTH
    total, done = sum(len(paper.questions) for paper in sitting.papers), 0
    loaded, answers = None, {}
    for paper in sitting.papers:
        prompts = encode_paper(sitting.tokenizer, sitting.benchmark, paper, window=window, letters=letters)
        right = [question.answer for question in paper.questions]
        key = key_of(name, prompts, right, letters)
        given = sitting.saved.find(key)
        if given is None:
            loaded = loaded or load_evaluated(sitting.model, options)
            told = part_of(on_progress, done / total, (done + len(prompts)) / total)
            given = answer_questions(
                loaded, prompts, right, letters, batch_tokens=options.batch_tokens, on_progress=told
            )
            sitting.saved.keep(key, given)
        answers[paper.subject] = given
        done += len(prompts)
    del loaded
    release_memory()
    return answers
