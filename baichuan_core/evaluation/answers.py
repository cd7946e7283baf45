"""A model's answers to multiple-choice questions, by the log-likelihood of the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from baichuan_core.errors import UnsupportedError
from baichuan_core.likelihood import continuation_log_likelihoods, encode_plain, next_token_log_likelihoods
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import ProgressCallback, ignore_progress, part_of
from baichuan_core.tokenizer import BaichuanTokenizer

from .benchmarks import Benchmark
from .exam import Paper
from .questions import LETTERS


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question.

    Attributes:
        letter: The most likely of the four letters; the first of them where several are.
        right: The letter that is right.
        log_likelihoods: Those of A, B, C and D after the prompt, in nats, over the whole vocabulary.
        shots: Examples in the prompt: fewer than asked for where more would not fit into the model's window.
        cut: Whether the start of the prompt was cut off, for it does not fit even without examples.
    """

    letter: str
    right: str
    log_likelihoods: tuple[float, float, float, float]
    shots: int
    cut: bool

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.letter == self.right


@dataclass(frozen=True, slots=True)
class Prompt:
    """An encoded prompt, with the fields of `Answer` that it settles."""

    token_ids: tuple[int, ...]
    shots: int
    cut: bool


def letter_ids(tokenizer: BaichuanTokenizer, benchmark: Benchmark) -> list[list[int]]:
    """For each letter the tokens in which it stands after a question of this benchmark.

    In the published vocabularies that is one token: `A` after `答案：`, and `▁A`, with its space, after `Answer:`.

    Raises:
        UnsupportedError: The tokenizer joins the letter to what stands before it.
    """
    cue = encode_plain(tokenizer, benchmark.cue)
    ids = []
    for letter in LETTERS:
        whole = encode_plain(tokenizer, f"{benchmark.cue}{benchmark.before_letter}{letter}")
        if whole[: len(cue)] != cue or len(whole) == len(cue):
            raise UnsupportedError(
                f"the tokenizer joins the letter {letter} to {benchmark.cue.strip()!r}, so it cannot be scored by "
                "itself: use the tokenizer that belongs to the model"
            )
        ids.append(whole[len(cue) :])
    return ids


def encode_paper(
    tokenizer: BaichuanTokenizer, benchmark: Benchmark, paper: Paper, *, window: int, letters: Sequence[Sequence[int]]
) -> list[Prompt]:
    """Every question with as many examples as fit into `window` tokens together with a letter.

    As in MMLU's own code the last examples go first.
    """
    room = window - max(map(len, letters)) + 1  # a letter's last token predicts nothing that is asked
    return [_encode(tokenizer, benchmark, paper, number, room) for number in range(len(paper.questions))]


def _encode(tokenizer: BaichuanTokenizer, benchmark: Benchmark, paper: Paper, number: int, room: int) -> Prompt:
    question, ids = paper.questions[number], []
    for shots in range(len(paper.examples), -1, -1):
        ids = encode_plain(tokenizer, benchmark.prompt(paper.subject, paper.examples[:shots], question))
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
    """Answer questions that share their examples, which are computed once for each number of shots.

    Args:
        model: In eval mode.
        prompts: The questions.
        right: The right letter of each.
        letters: Token ids of A, B, C and D.
        batch_tokens: Most tokens in one batch.
        on_progress: Told the share of questions that are answered.

    Raises:
        CheckpointError: The model computes NaN.
        DatasetError: A token is none of the model's.
    """
    answers: dict[int, Answer] = {}
    for chosen in _alike(prompts):
        before, after = len(answers) / len(prompts), (len(answers) + len(chosen)) / len(prompts)
        scores = _log_likelihoods(
            model,
            [prompts[index].token_ids for index in chosen],
            letters,
            batch_tokens,
            part_of(on_progress, before, after),
        )
        for index, row in zip(chosen, scores, strict=True):
            a, b, c, d = row
            letter = LETTERS[row.index(max(row))]
            answers[index] = Answer(letter, right[index], (a, b, c, d), prompts[index].shots, prompts[index].cut)
    return [answers[index] for index in range(len(prompts))]


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of the prompts that begin alike."""

    def beginning(index: int) -> tuple[int, bool]:
        return prompts[index].shots, prompts[index].cut

    return [list(group) for _, group in groupby(sorted(range(len(prompts)), key=beginning), key=beginning)]


def _log_likelihoods(
    model: BaichuanForCausalLM,
    prompts: Sequence[Sequence[int]],
    letters: Sequence[Sequence[int]],
    batch_tokens: int,
    on_progress: ProgressCallback,
) -> list[list[float]]:
    """[prompts, letters]: one pass a prompt where every letter is one token, else one a letter."""
    if all(len(ids) == 1 for ids in letters):
        ids = [letter[0] for letter in letters]
        scores = next_token_log_likelihoods(model, prompts, ids, batch_tokens=batch_tokens, on_progress=on_progress)
        return scores.tolist()
    found = continuation_log_likelihoods(
        model,
        [prompt for prompt in prompts for _ in letters],
        [letter for _ in prompts for letter in letters],
        batch_tokens=batch_tokens,
        on_progress=on_progress,
    )
    return torch.tensor([score.log_likelihood for score in found]).reshape(len(prompts), len(letters)).tolist()
