"""Compare two ways to run five-shot C-Eval: examples computed once per subject, and one forward pass per question.

Usage: `python -m benchmarks.evaluation [--questions 100] [--hidden 512]`

The published evaluators work in the second way. Data and weights are generated. The number of equal answers is printed.
"""

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import torch
from transformers.utils import logging

from baichuan_core import BaichuanConfig, BaichuanForCausalLM, load_model, load_tokenizer
from baichuan_core.evaluation import BenchmarkOptions, evaluate_benchmark
from baichuan_core.evaluation.answers import encode_letters
from baichuan_core.evaluation.benchmarks import CEVAL
from baichuan_core.evaluation.exam import read_exams
from examples.tiny_checkpoint import make_tiny_checkpoint

SUBJECT = "middle_school_mathematics"


def write_data(folder: Path, questions: int) -> Path:
    """Write questions on one subject in C-Eval's layout."""
    for split, count in (("dev", 5), ("val", questions)):
        path = folder / split / f"{SUBJECT}_{split}.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(["id", "question", "A", "B", "C", "D", "answer"])
            for number in range(count):
                text = (
                    f"A farmer has {number + 3} fields with {number * 7 + 2} trees each. How many trees has the farmer?"
                )
                right = (number + 3) * (number * 7 + 2)
                csv.writer(file).writerow([number, text, right, right + 1, right - 2, right + 10, "A"])
    return folder


def make_checkpoint(folder: Path, hidden: int) -> Path:
    """Write a model with random weights and a small vocabulary."""
    make_tiny_checkpoint(folder)
    config = BaichuanConfig(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=8,
        num_attention_heads=hidden // 64,
        max_position_embeddings=4096,
        norm_head=True,
    )
    torch.manual_seed(0)
    BaichuanForCausalLM(config).save_pretrained(folder)
    return folder


@torch.inference_mode()
def run_published(checkpoint: Path, data: Path) -> tuple[list[str], float, int]:
    """Run one forward pass per question, like the published evaluators; return letters, seconds and tokens."""
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    letters = torch.tensor([ids[-1] for ids in encode_letters(tokenizer, CEVAL)])
    (exam,) = read_exams(data, CEVAL, split="val", shots=5, subjects=None, limit=None)
    start, given, tokens = time.perf_counter(), [], 0
    for question in exam.questions:
        ids = tokenizer.encode_text(CEVAL.format_prompt(SUBJECT, exam.examples, question))
        tokens += len(ids)
        given.append("ABCD"[int(model(torch.tensor([ids])).logits[0, -1, letters].argmax())])
    return given, time.perf_counter() - start, tokens


def run_ours(checkpoint: Path, data: Path, output: Path) -> tuple[list[str], float]:
    """Run `evaluate_benchmark`; return letters and seconds, including loading."""
    started: list[float] = []

    def first(_progress: object) -> None:
        started.append(time.perf_counter())

    evaluate_benchmark(checkpoint, data, output, BenchmarkOptions("ceval"), on_progress=first)
    seconds = time.perf_counter() - started[0]
    lines = (output / "answers.jsonl").read_text().splitlines()
    return [json.loads(line)["model"]["letter"] for line in lines], seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=512)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "ceval", arguments.questions)
        checkpoint = make_checkpoint(Path(folder) / "model", arguments.hidden)
        theirs, slow, tokens = run_published(checkpoint, data)
        mine, fast = run_ours(checkpoint, data, Path(folder) / "out")
    same = sum(a == b for a, b in zip(mine, theirs, strict=True))
    print(f"{arguments.questions} questions of {tokens // arguments.questions} tokens, {same} equal answers")
    print(f"one forward per question         {arguments.questions / slow:8.2f} questions/s")
    print(f"evaluate, including loading      {arguments.questions / fast:8.2f} questions/s, {slow / fast:.2f}x as fast")


if __name__ == "__main__":
    main()
