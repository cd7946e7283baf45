"""Evaluates checkpoints on C-Eval, MMLU or CMMLU and writes a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.checkpoint import ModelCache, load_tokenizer, make_directory, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.errors import UnsupportedError
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress, scale_progress
from baichuan_core.tokenizer import BaichuanTokenizer

from .answers import Answer, answer_questions, encode_letters, encode_prompts
from .benchmark_files import write_benchmark_files
from .benchmark_report import BenchmarkReport, build_benchmark_report
from .benchmarks import Benchmark, Split, get_benchmark
from .exam import SubjectExam, read_exams
from .loading import load_model_for_evaluation
from .options import BenchmarkOptions, EvaluatedModel
from .saved_answers import SavedAnswers, hash_questions


def evaluate_benchmark(  # noqa: PLR0913 - each is a separate input or output of a run
    model: EvaluatedModel | Path | str,
    data: Path | str,
    output: Path | str,
    options: BenchmarkOptions,
    *,
    compare_with: EvaluatedModel | Path | str | None = None,
    checkpoints: Path | str | None = None,
    resume_from: Sequence[Path] = (),
    models: ModelCache | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> BenchmarkReport:
    """Evaluate a model, or two models one after the other, on a multiple-choice benchmark.

    Prompts match the benchmark's published code, and the answer is the letter with the highest log-likelihood after
    the prompt. Three files are written to `output`: `evaluation.json` (the returned report), `evaluation.md` (the same
    report as a table) and `answers.jsonl` (the answers to every question).

    Args:
        model: A checkpoint directory (quantized or not), or an `EvaluatedModel` with an adapter.
        data: The benchmark in its published layout: a directory, or a .zip or .tar file.
        output: Directory for the results.
        options: The benchmark and its settings.
        compare_with: A second model to compare with, for example the one that `model` was quantized from.
        checkpoints: Directory for saved answers, one file per subject; used by this evaluation only.
        resume_from: `checkpoints` directories of interrupted runs, whose answers are reused.
        models: Cache that keeps the last loaded model for later operations; by default, the model is released.
        on_progress: Called during the stages `loading`, `scoring` and `writing`.

    Raises:
        DatasetError: The data is missing, malformed or from a different benchmark; the message names the file and line.
        TokenizerError: A checkpoint has no tokenizer.
        CheckpointError: A checkpoint or adapter cannot be used, a model produces NaN, or `output` cannot be written.
        UnsupportedError: The benchmark or split does not exist, or a tokenizer has no separate token for a letter.
    """
    output, benchmark = Path(output), get_benchmark(options.benchmark)
    split = _choose_split(benchmark, options.split)
    make_directory(output)
    on_progress(Progress(0.0, "loading"))
    exams = read_exams(
        Path(data), benchmark, split=split, shots=options.shots, subjects=options.subjects, limit=options.limit
    )
    saved = SavedAnswers(Path(checkpoints) if checkpoints is not None else None, resume_from)
    evaluated = [EvaluatedModel.from_path(one) for one in (model, compare_with) if one is not None]
    tokenizers = [load_tokenizer(one.checkpoint) for one in evaluated]
    # Encode the letters first, so that an unsuitable tokenizer is rejected before any model is loaded.
    letters = [encode_letters(tokenizer, benchmark) for tokenizer in tokenizers]
    runs = [
        _ModelRun(number, *parts, benchmark, exams, options, saved)
        for number, parts in enumerate(zip(evaluated, tokenizers, letters, strict=True))
    ]
    with ModelCache.use_or_create(models) as cache:
        answers = [
            _answer_exams(one, cache, scale_progress(on_progress, one.number / len(runs), (one.number + 1) / len(runs)))
            for one in runs
        ]
    on_progress(Progress(1.0, "writing"))
    names = [one.display_name for one in evaluated]
    report = build_benchmark_report(benchmark, split, options.shots, list(zip(names, answers, strict=True)))
    write_benchmark_files(report, answers, output)
    return report


@dataclass(frozen=True, slots=True)
class _ModelRun:
    """One model and the questions it answers; `number` distinguishes models that have the same name."""

    number: int
    model: EvaluatedModel
    tokenizer: BaichuanTokenizer
    letters: Sequence[Sequence[int]]
    benchmark: Benchmark
    exams: Sequence[SubjectExam]
    options: BenchmarkOptions
    saved: SavedAnswers


def _choose_split(benchmark: Benchmark, wanted: Split | None) -> Split:
    if wanted is not None and wanted not in benchmark.splits:
        raise UnsupportedError(f"{benchmark.title} has no split {wanted!r}: use {' or '.join(benchmark.splits)}")
    return wanted or benchmark.splits[0]


def _answer_exams(run: _ModelRun, models: ModelCache, on_progress: ProgressCallback) -> dict[str, list[Answer]]:
    """Return the answers by subject, loading the model only if some answers have not been saved."""
    checkpoint, options, letters = Path(run.model.checkpoint), run.options, run.letters
    name = f"{run.number} {run.model.display_name} {options.dtype}"
    window = read_config(checkpoint).model_max_length or DEFAULT_CONTEXT_LENGTH
    total, done = sum(len(exam.questions) for exam in run.exams), 0
    loaded, answers = None, {}
    for exam in run.exams:
        prompts = encode_prompts(run.tokenizer, run.benchmark, exam, window=window, letters=letters)
        right = [question.answer for question in exam.questions]
        key = hash_questions(name, prompts, right, letters)
        given = run.saved.find(key)
        if given is None:
            loaded = loaded or load_model_for_evaluation(run.model, options, models)
            on_subject_progress = scale_progress(on_progress, done / total, (done + len(prompts)) / total)
            given = answer_questions(
                loaded, prompts, right, letters, batch_tokens=options.batch_tokens, on_progress=on_subject_progress
            )
            run.saved.save(key, given)
        answers[exam.subject] = given
        done += len(prompts)
    return answers
