"""Measure the peak memory of fine-tuning on data that is larger than this memory; see README.md here.

A data set of the requested size is written, as one JSON array on one line or as JSON lines, and a tiny model is trained
on it for some steps in a separate process. The peak is that process's resident memory (VmHWM), including libraries.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

WORDS = [
    "the",
    "queue",
    "holds",
    "a",
    "job",
    "until",
    "some",
    "worker",
    "claims",
    "it",
    "and",
    "runs",
    "it",
    "to",
    "completion",
    "with",
    "care",
]
MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class Measurement:
    """Peak resident bytes, seconds, examples and tokens of a run."""

    peak: int
    seconds: float
    examples: int
    tokens: int


def write_data(path: Path, size: int, *, lines: bool = False) -> None:
    """Write conversations of about 2 kB each, together about `size` bytes."""
    source = random.Random(0)  # noqa: S311
    begin, between, end = ("", "\n", "\n") if lines else ("[", ", ", "]")
    with path.open("w", encoding="utf-8") as file:
        written = file.write(begin)
        while written < size:
            question, answer = (" ".join(source.choices(WORDS, k=source.randint(1, most))) for most in (100, 700))
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            written += file.write((between if written > len(begin) else "") + json.dumps({"conversations": turns}))
        file.write(end)


def train(folder: Path, data: Path, steps: int) -> Measurement:
    """Fine-tune a tiny model."""
    from baichuan_core import FinetuningOptions, finetune  # noqa: PLC0415 - the parent process does not need it
    from examples.tiny_checkpoint import make_tiny_checkpoint  # noqa: PLC0415

    base = make_tiny_checkpoint(folder / "base")
    options = FinetuningOptions(max_steps=steps, batch_size=8, max_length=512, device="cpu")
    begun = time.monotonic()
    report = finetune(base, data, folder / "result", options, checkpoints=folder / "checkpoints")
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return Measurement(peak, time.monotonic() - begun, report.examples, report.tokens)


def measure(folder: Path, size: int, steps: int = 4, *, lines: bool = False) -> Measurement:
    """Write data of this size and train on it in a new process."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.json"
    write_data(data, size, lines=lines)
    command = [sys.executable, "-m", "benchmarks.large_data", "--one", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--lines", action="store_true", help="write JSON lines instead of one array")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="directory on a disk with space for six times the data")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        done = train(arguments.one, arguments.one / "data.json", arguments.steps)
        print(json.dumps(asdict(done)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        done = measure(Path(folder), arguments.megabytes * MEGABYTE, arguments.steps, lines=arguments.lines)
    print("| data | examples | tokens | peak MiB | seconds |\n| --- | --- | --- | --- | --- |")
    print(
        f"| {arguments.megabytes:,} MB | {done.examples:,} | {done.tokens:,} | {done.peak / 2**20:,.0f} |"
        f" {done.seconds:,.0f} |"
    )


if __name__ == "__main__":
    main()
