"""Compare conversions with `cp` of the same files, and with the published method: load, normalize and save everything.

Usage: python -m benchmarks.convert [--gigabytes 1.1] [--rounds 3] [--directory DIRECTORY]

The source is a checkpoint of the 7B family with random bfloat16 weights, as safetensors and as `.bin`, each in three
shards. All times include flushing to disk (fsync), the source files are in the page cache, and the methods alternate.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from baichuan_core import BaichuanConfig, ConversionTarget, convert
from baichuan_core.checkpoint import TensorReader, expected_tensors, tensor_writer

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 1024, 2752, 8, 64000
SHARDS = 3
# From Baichuan 2's README: normalizes the head so that code for Baichuan 1 can run the model.
PUBLISHED = """
import os, re, sys, time
import torch
from pathlib import Path

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
started = time.perf_counter()
source, target = map(Path, sys.argv[1:])
target.mkdir()
weights = {}
for file in sorted(source.glob("*.bin")):
    weights |= torch.load(file, weights_only=True)
weights["lm_head.weight"] = torch.nn.functional.normalize(weights["lm_head.weight"])
torch.save(weights, target / "pytorch_model.bin")
with (target / "pytorch_model.bin").open() as written:
    os.fsync(written.fileno())
print(time.perf_counter() - started, peak() - before)
"""


@dataclass
class Measurements:
    """Wall seconds, CPU seconds and increase of memory in bytes, each per round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def make_checkpoints(root: Path, gigabytes: float) -> tuple[Path, Path]:
    """Write the same weights as safetensors and as `.bin`; return both directories."""
    bytes_per_block = 2 * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
    layers = max(1, round((gigabytes * 1e9 - 4 * HIDDEN * VOCABULARY) / bytes_per_block))
    config = BaichuanConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=4096,
        norm_head=True,
        dtype=torch.bfloat16,
    )
    shapes = expected_tensors(config)
    mapped, pickled = root / "safetensors", root / "bin"
    for directory in (mapped, pickled):
        config.save_pretrained(directory)
    with tensor_writer(mapped, list(shapes), round(gigabytes * 1e9 / SHARDS)) as writer:
        for name, shape in shapes.items():
            writer.add(name, torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02))
    _copy_as_bin(mapped, pickled)
    return mapped, pickled


def _copy_as_bin(mapped: Path, pickled: Path) -> None:
    weight_map: dict[str, str] = {}
    with TensorReader(mapped) as reader:
        names = reader.names
        step = -(-len(names) // SHARDS)
        for number in range(SHARDS):
            file = f"pytorch_model-{number + 1:05}-of-{SHARDS:05}.bin"
            shard = {name: reader.read(name).clone() for name in names[number * step : (number + 1) * step]}
            torch.save(shard, pickled / file)
            weight_map |= dict.fromkeys(shard, file)
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def copy(source: Path, target: Path) -> None:
    """Copy with `cp` and flush the result to disk."""
    target.mkdir()
    subprocess.run(["cp", *map(str, source.iterdir()), str(target)], check=True)
    for file in target.iterdir():
        with file.open() as written:
            os.fsync(written.fileno())


def run_published(source: Path, target: Path) -> tuple[float, float]:
    """Run the published conversion; return its seconds and bytes of memory, both without imports."""
    command = [sys.executable, "-c", PUBLISHED, str(source), str(target)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, memory = map(float, ran.stdout.split())
    return seconds, memory


@contextmanager
def watch_memory(result: list[int]) -> Iterator[None]:
    """Append the increase of anonymous memory within the block to `result`."""
    ended = threading.Event()
    start = highest = _anonymous_bytes()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.005):
            highest = max(highest, _anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    ended.set()
    thread.join()
    result.append(highest - start)


def _anonymous_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("/proc/self/status has no RssAnon: run this benchmark on Linux")
    return int(found[1]) * 1024


def measure(measured: Measurements, work: Callable[[Path], tuple[float, float] | None], root: Path) -> None:
    """Measure one round; if `work` returns its own measurement of a subprocess, use that."""
    target = root / "result"
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    memory: list[int] = []
    before, started = os.times(), time.perf_counter()
    with watch_memory(memory):
        own = work(target)
    seconds, after = time.perf_counter() - started, os.times()
    measured.seconds.append(seconds if own is None else own[0])
    measured.cpu_seconds.append(sum(after[:4]) - sum(before[:4]))
    measured.memory.append(memory[0] if own is None else own[1])


def make_conversion(source: Path, target: ConversionTarget) -> Callable[[Path], None]:
    """Return a function that converts the checkpoint."""

    def work(output: Path) -> None:
        convert(source, output, target)

    return work


def run(root: Path, gigabytes: float, rounds: int) -> None:
    """Run all rounds and print the table."""
    mapped, pickled = make_checkpoints(root, gigabytes)
    size = sum(file.stat().st_size for file in mapped.iterdir())
    works: dict[str, Callable[[Path], tuple[float, float] | None]] = {
        "cp": lambda target: copy(mapped, target),
        "safetensors, from safetensors": make_conversion(mapped, "safetensors"),
        "baichuan1, from safetensors": make_conversion(mapped, "baichuan1"),
        "safetensors, from .bin": make_conversion(pickled, "safetensors"),
        "baichuan1, from .bin": make_conversion(pickled, "baichuan1"),
        "published method, from .bin": lambda target: run_published(pickled, target),
    }
    results = {name: Measurements() for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            measure(results[name], work, root)
    baseline = median(results["cp"].seconds)
    print(f"{size / 1e9:.2f} GB, {torch.get_num_threads()} threads, medians of {rounds} rounds\n")
    print("| method | seconds | multiple of cp | GB/s | CPU seconds | additional memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        seconds, memory = median(result.seconds), median(result.memory) / 2**20
        cells = f"{seconds:.2f} | {seconds / baseline:.2f} | {size / 1e9 / seconds:.2f}"
        print(f"| {name} | {cells} | {median(result.cpu_seconds):.2f} | {memory:.0f} |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory", type=Path, help="where to write, on the disk to measure; default: temporary directory"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="convert-") as root:
        run(Path(root), arguments.gigabytes, arguments.rounds)


if __name__ == "__main__":
    main()
