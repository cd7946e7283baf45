"""Answers multiple-choice questions by comparing the log-likelihoods of the answer letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from baichuan_core.errors import UnsupportedError
from baichuan_core.likelihood import compute_next_token_log_likelihoods, encode_plain_text, score_continuations
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import ProgressCallback, ignore_progress, scale_progress
from baichuan_core.tokenizer import BaichuanTokenizer

from .benchmarks import Benchmark
from .exam import SubjectExam
from .questions import ANSWER_LETTERS


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one question.

    Attributes:
        letter: The most likely of the four letters; the first one in case of a tie.
        right: The correct letter.
        log_likelihoods: Log-likelihoods (nats) of A, B, C and D after the prompt, normalized over the vocabulary.
        shots: Number of examples in the prompt; lower than requested if more do not fit into the context window.
        cut: Whether the start of the prompt was cut off because the prompt does not fit even without examples.
    """

    letter: str
    right: str
    log_likelihoods: tuple[float, float, float, float]
    shots: int
    cut: bool

    @property
    def is_correct(self) -> bool:
        """Whether the answer is correct."""
        return self.letter == self.right


@dataclass(frozen=True, slots=True)
class Prompt:
    """An encoded prompt; `shots` and `cut` are as in `Answer`."""

    token_ids: tuple[int, ...]
    shots: int
    cut: bool


def encode_letters(tokenizer: BaichuanTokenizer, benchmark: Benchmark) -> list[list[int]]:
    """Return the token ids of each letter as it appears after a question of this benchmark.

    In the published vocabularies, every letter is one token: `A` after `答案：`, and `▁A` (including the space) after
    `Answer:`.

    Raises:
        UnsupportedError: The tokenizer merges the letter with the text before it.
    """
    cue = encode_plain_text(tokenizer, benchmark.cue)
    ids = []
    for letter in ANSWER_LETTERS:
        whole = encode_plain_text(tokenizer, f"{benchmark.cue}{benchmark.before_letter}{letter}")
        if whole[: len(cue)] != cue or len(whole) == len(cue):
            raise UnsupportedError(
                f"the tokenizer merges the letter {letter} with {benchmark.cue.strip()!r}, so the letter cannot be "
                "scored separately: use the tokenizer that belongs to the model"
            )
        ids.append(whole[len(cue) :])
    return ids


def encode_prompts(
    tokenizer: BaichuanTokenizer,
    benchmark: Benchmark,
    exam: SubjectExam,
    *,
    window: int,
    letters: Sequence[Sequence[int]],
) -> list[Prompt]:
    """Encode every question with as many examples as fit into `window` tokens, leaving room for a letter.

    If not all examples fit, the last ones are dropped first, as in MMLU's published code.
    """
    # The last token of a letter is scored but never fed to the model, so it needs no room in the window.
    room = window - max(map(len, letters)) + 1
    return [_encode_prompt(tokenizer, benchmark, exam, number, room) for number in range(len(exam.questions))]


def _encode_prompt(
    tokenizer: BaichuanTokenizer, benchmark: Benchmark, exam: SubjectExam, number: int, room: int
) -> Prompt:
    question, ids = exam.questions[number], []
    for shots in range(len(exam.examples), -1, -1):
        ids = encode_plain_text(tokenizer, benchmark.format_prompt(exam.subject, exam.examples[:shots], question))
        if len(ids) <= room:
            return Prompt(tuple(ids), shots, cut=False)
    return Prompt(tuple(ids[-room:]), 0, cut=True)


def answer_questions(
    model: BaichuanForCausalLM,
    prompts: Sequence[Prompt],
    right: Sequence[str],
    letters: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
    on_progress: ProgressCallback = ignore_progress,
) -> list[Answer]:
    """Answer the questions of one subject; prompts with the same examples share one pass over them.

    Args:
        model: The model, in eval mode.
        prompts: The encoded questions.
        right: The correct letter of each question.
        letters: Token ids of A, B, C and D.
        batch_tokens: Maximum number of tokens in a batch.
        on_progress: Called with the fraction of questions answered so far.

    Raises:
        CheckpointError: The model produces NaN.
        DatasetError: A token id is not in the model's vocabulary.
    """
    answers: dict[int, Answer] = {}
    for chosen in _group_by_examples(prompts):
        before, after = len(answers) / len(prompts), (len(answers) + len(chosen)) / len(prompts)
        scores = _compute_log_likelihoods(
            model,
            [prompts[index].token_ids for index in chosen],
            letters,
            batch_tokens,
            scale_progress(on_progress, before, after),
        )
        for index, row in zip(chosen, scores, strict=True):
            a, b, c, d = row
            letter = ANSWER_LETTERS[row.index(max(row))]
            answers[index] = Answer(letter, right[index], (a, b, c, d), prompts[index].shots, prompts[index].cut)
    return [answers[index] for index in range(len(prompts))]


def _group_by_examples(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Group the indices of prompts that have the same examples."""

    def get_group_key(index: int) -> tuple[int, bool]:
        return prompts[index].shots, prompts[index].cut

    return [list(group) for _, group in groupby(sorted(range(len(prompts)), key=get_group_key), key=get_group_key)]


def _compute_log_likelihoods(
    model: BaichuanForCausalLM,
    prompts: Sequence[Sequence[int]],
    letters: Sequence[Sequence[int]],
    batch_tokens: int,
    on_progress: ProgressCallback,
) -> list[list[float]]:
    """Compute the log-likelihood of every letter after every prompt, [prompts, letters].

    This takes one forward pass per prompt if every letter is a single token, otherwise one per letter.
    """
    if all(len(ids) == 1 for ids in letters):
        ids = [letter[0] for letter in letters]
        scores = compute_next_token_log_likelihoods(
            model, prompts, ids, batch_tokens=batch_tokens, on_progress=on_progress
        )
        return scores.tolist()
    found = score_continuations(
        model,
        [prompt for prompt in prompts for _ in letters],
        [letter for _ in prompts for letter in letters],
        batch_tokens=batch_tokens,
        on_progress=on_progress,
    )
    return torch.tensor([score.log_likelihood for score in found]).reshape(len(prompts), len(letters)).tolist()
