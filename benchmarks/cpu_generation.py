"""Compare ways to generate on a CPU with a trained model: `python -m benchmarks.cpu_generation`; see README.md here.

24 prompts are completed with 16 to 160 tokens each. The ways are: the published one (a loop of `generate` in float32),
the same in bfloat16, one static left-padded batch, our own engine, llama.cpp through its binding alone, our llama.cpp
engine, and a generate job through REST, queue and worker (by the time that the job reports). The result is useful
tokens per second, which are those up to the end of each completion; median of three runs.

`--ways` selects some ways, e.g. `--ways "binding alone," job`; `--turns` alternates the job and the binding.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from baichuan_client import Client
from baichuan_core import GenerationOptions, GenerationRequest, TextGenerator, convert, load_model, load_tokenizer
from baichuan_core.conversion import GgufType
from baichuan_core.generation.engines.llama_cpp.server import SERVER_ENVIRONMENT
from benchmarks.real_model import CACHE, make_real_checkpoint
from jobs.results import GenerateResult

TYPES: tuple[GgufType, ...] = ("f16", "q8_0", "q4_0")
TORCH_WAYS = (
    "published loop, float32",
    "loop, bfloat16",
    "static batch, float32",
    "our engine, float32",
    "our engine, bfloat16",
    "generate job, its own clock, float32",
    "generate job, its own clock, bfloat16",
)
BINDING, JOB = "binding alone,", "generate job, its own clock,"
LLAMA_WAYS = ("binding alone, one by one,", BINDING, "our llama_cpp engine,", JOB)
ALL_WAYS = [""]  # every name contains the empty string
RUNS = 3
SLOTS = 24
SLOT_TOKENS = 256
OWN_CLOCK: list[float] = []  # generation times in seconds, as reported by jobs and by the binding
SUBJECTS = (
    "The history of the printing press",
    "A recipe for bread that needs no kneading",
    "Why the sky is blue in the day and red in the evening",
    "How a job queue keeps its promises when machines fail",
    "The life of bees in winter and what keepers do for them",
    "Advice for somebody who learns to play the piano at forty",
)
OPENINGS = ("{}.", "Here is a short introduction. {}: first,", "Question: what about this? {}. Answer:", "{}, in brief")


Way = Callable[["Work"], int]


@dataclass(frozen=True, slots=True)
class Work:
    """Prompts and the maximum number of new tokens for each."""

    prompts: list[str]
    limits: list[int]

    @classmethod
    def make_mixed(cls, count: int) -> "Work":
        """Create prompts from every subject and every opening, with limits from 16 to 160."""
        prompts = [opening.format(subject) for opening in OPENINGS for subject in SUBJECTS][:count]
        return cls(prompts, [16 + (number * 61) % 145 for number in range(len(prompts))])

    def requests(self) -> list[GenerationRequest]:
        """Return the prompts as requests for our engines."""
        return [
            GenerationRequest(prompt=prompt, max_new_tokens=limit)
            for prompt, limit in zip(self.prompts, self.limits, strict=True)
        ]


class TransformersGenerator:
    """transformers' `generate` with our model, which computes the same results as the published one."""

    def __init__(self, checkpoint: Path, dtype: Any) -> None:
        self._model = load_model(checkpoint, dtype=dtype, device="cpu")
        self._tokenizer = load_tokenizer(checkpoint)

    def run_loop(self, work: Work) -> int:
        """Complete one prompt after the other; return the number of tokens."""
        return sum(self._generate([prompt], [limit]) for prompt, limit in zip(work.prompts, work.limits, strict=True))

    def run_static_batch(self, work: Work) -> int:
        """Complete all prompts in one left-padded batch up to the longest limit; return the number of useful tokens."""
        return self._generate(work.prompts, work.limits)

    def _generate(self, prompts: list[str], limits: list[int]) -> int:
        encoded = self._tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        ids, mask = encoded.input_ids, encoded.attention_mask
        settings: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "eos_token_id": 2, "pad_token_id": 0}
        output = self._model.generate(ids, attention_mask=mask, max_new_tokens=max(limits), **settings)
        rows = output[:, ids.shape[1] :].tolist()
        return sum(
            min(limit, row.index(2) + 1 if 2 in row else len(row)) for row, limit in zip(rows, limits, strict=True)
        )


class Binding:
    """llama.cpp's server through xllamacpp alone, in a process without torch; see `llama_binding.py`."""

    def __init__(self, file: Path, checkpoint: Path, slots: int, stack: ExitStack) -> None:
        script = Path(__file__).with_name("llama_binding.py")
        command = [sys.executable, "-P", script, file, slots, SLOT_TOKENS, torch.get_num_threads()]
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**SERVER_ENVIRONMENT, **os.environ},
        )
        self._process = stack.enter_context(process)  # exits when its stdin closes
        self._tokenizer = load_tokenizer(checkpoint)

    def run(self, work: Work) -> int:
        """Complete all prompts and return the number of tokens; the time excludes tokenizing the prompts."""
        prompts = [self._tokenizer(prompt).input_ids for prompt in work.prompts]
        print(json.dumps(list(zip(prompts, work.limits, strict=True))), file=self._process.stdin, flush=True)
        assert self._process.stdout is not None  # noqa: S101
        tokens, seconds = json.loads(self._process.stdout.readline())
        OWN_CLOCK.append(seconds)
        return int(tokens)


def main() -> None:
    """Start a service and measure each way in a separate process, because idle threads slow each other down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--ways", nargs="+", default=ALL_WAYS, help="only ways whose names contain one of these texts")
    parser.add_argument("--turns", action="store_true", help="only the job and the binding, alternating")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        sys.exit(_rerun_in_service(arguments.threads))
    torch.set_num_threads(arguments.threads)
    work, checkpoint = Work.make_mixed(arguments.prompts), make_real_checkpoint(CACHE / "smollm2")
    if arguments.way:
        _measure(arguments.way, work, checkpoint)
        return
    for gguf_type in arguments.types:
        _convert(checkpoint, gguf_type)
    if arguments.turns:
        for gguf_type in arguments.types:
            _measure_alternating(gguf_type, work, checkpoint)
        return
    print("| way | useful tokens/s | ratio to the first |\n| --- | --- | --- |")
    first = 0.0
    for way in [*TORCH_WAYS, *(f"{form} {gguf_type}" for gguf_type in arguments.types for form in LLAMA_WAYS)]:
        if not any(part in way for part in arguments.ways):
            continue
        command = [sys.executable, "-m", "benchmarks.cpu_generation", *sys.argv[1:], "--way", way]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rate = float(printed.split()[-1])
        first = first or rate
        print(f"| {way} | {rate:.0f} | {rate / first:.2f} |", flush=True)
    if arguments.ways == ALL_WAYS:
        _print_equality(checkpoint, _gguf_directory("f16"))


def _measure(way: str, work: Work, checkpoint: Path) -> None:
    """Print the useful tokens per second of one way, as the median of several runs after a warm-up."""
    with ExitStack() as stack:
        run = (
            _start_torch_way(way, checkpoint, stack) if way in TORCH_WAYS else _start_llama_way(way, checkpoint, stack)
        )
        print(median(_measure_rates([run], work)[0]))


def _measure_alternating(gguf_type: str, work: Work, checkpoint: Path) -> None:
    """Print the ratios of the job to the binding, which alternate so that the load on the machine affects both."""
    with ExitStack() as stack:
        ways = [_start_llama_way(f"{prefix} {gguf_type}", checkpoint, stack) for prefix in (JOB, BINDING)]
        ratios = sorted(job / binding for job, binding in zip(*_measure_rates(ways, work), strict=True))
        print(f"ratios of the job to the binding, {gguf_type}: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


def _measure_rates(ways: Sequence[Way], work: Work) -> list[list[float]]:
    """Return the useful tokens per second of each run, by way."""
    for run in ways:
        run(Work([f"Warm up. {prompt}" for prompt in work.prompts], [4] * len(work.prompts)))
    rates: list[list[float]] = [[] for _ in ways]
    for number in range(RUNS):
        # Prompts differ between runs, so that no run can use prefixes cached by an earlier one.
        fresh = Work([f"{number}. {prompt}" for prompt in work.prompts], work.limits)
        for run, found in zip(ways, rates, strict=True):
            OWN_CLOCK.clear()
            started = time.perf_counter()
            tokens = run(fresh)
            seconds = time.perf_counter() - started
            found.append(tokens / (OWN_CLOCK[-1] if OWN_CLOCK else seconds))
    return rates


def _start_torch_way(way: str, checkpoint: Path, stack: ExitStack) -> Way:
    name, _, dtype = way.rpartition(", ")
    match name:
        case "published loop" | "loop":
            return TransformersGenerator(checkpoint, dtype).run_loop
        case "static batch":
            return TransformersGenerator(checkpoint, dtype).run_static_batch
        case "our engine":
            return _start_engine(checkpoint, dtype)
        case _:
            return stack.enter_context(_run_jobs(checkpoint, f"smollm2-{dtype}", dtype))


def _start_llama_way(way: str, checkpoint: Path, stack: ExitStack) -> Way:
    name, _, gguf_type = way.rpartition(" ")
    model = _gguf_directory(gguf_type)
    match name:
        case "binding alone, one by one,":
            return Binding(model / "model.gguf", checkpoint, 1, stack).run
        case _ if name == BINDING:
            return Binding(model / "model.gguf", checkpoint, SLOTS, stack).run
        case "our llama_cpp engine,":
            return _start_engine(model)
        case _:
            return stack.enter_context(_run_jobs(model, model.name))


def _gguf_directory(gguf_type: str) -> Path:
    return CACHE / f"smollm2-{gguf_type}"


def _convert(checkpoint: Path, gguf_type: GgufType) -> None:
    if not _gguf_directory(gguf_type).is_dir():
        convert(checkpoint, _gguf_directory(gguf_type), "gguf", gguf_type=gguf_type)


def _rerun_in_service(threads: int) -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    make_real_checkpoint(CACHE / "smollm2")
    with tempfile.TemporaryDirectory(dir=CACHE) as home:
        baichuan = Path(sys.executable).with_name("baichuan")
        environment = {
            **os.environ,
            "BAICHUAN_HOME": home,
            "BAICHUAN_MODEL_ROOTS": str(CACHE),
            "BAICHUAN_WORKER_THREADS": str(threads),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        again = [sys.executable, "-m", "benchmarks.cpu_generation", *sys.argv[1:]]
        return subprocess.run([baichuan, "up", "--", *again], env=environment, check=False).returncode


def _start_engine(checkpoint: Path, dtype: Any = "auto") -> Way:
    options = GenerationOptions(temperature=0, repetition_penalty=1.0, batch_size=SLOTS, dtype=dtype, device="cpu")
    generator = TextGenerator(checkpoint, options)
    generator.load()
    return lambda work: sum(step.token_count for step in generator.run(generator.encode(work.requests())))


@contextmanager
def _run_jobs(checkpoint: Path, name: str, dtype: str = "auto") -> Iterator[Way]:
    with Client() as client, tempfile.TemporaryDirectory() as folder:
        client.models.register(name, checkpoint)
        prompts = Path(folder) / "prompts.jsonl"

        def run(work: Work) -> int:
            lines = [
                json.dumps({"prompt": prompt, "max_new_tokens": limit})
                for prompt, limit in zip(work.prompts, work.limits, strict=True)
            ]
            prompts.write_text("\n".join(lines), encoding="utf-8")
            uploaded = client.files.upload(prompts, "prompts").id
            settings = {"temperature": 0, "repetition_penalty": 1.0, "batch_size": SLOTS, "dtype": dtype}
            job = client.jobs.submit({"kind": "generate", "model": name, "input_file": uploaded, **settings}).wait()
            assert isinstance(job.result, GenerateResult)  # noqa: S101 - for the type checker
            OWN_CLOCK.append(job.result.seconds or 0.0)
            return job.result.completion_tokens

        yield run


def _print_equality(checkpoint: Path, gguf: Path) -> None:
    """Compare greedy completions of llama.cpp with a float16 file and of our float32 engine: 16 prompts, 32 tokens."""
    requests = [GenerationRequest(prompt=prompt, max_new_tokens=32) for prompt in Work.make_mixed(16).prompts]
    options = GenerationOptions(temperature=0, repetition_penalty=1.0, logprobs=2, device="cpu")
    mine, theirs = (TextGenerator(directory, options).complete(requests) for directory in (checkpoint, gguf))
    equal, gaps, largest = 0, [], 0.0
    for ours, other in zip(mine, theirs, strict=True):
        for expected, found in zip(ours.logprobs or (), other.logprobs or (), strict=False):
            if expected.token_id != found.token_id:
                gaps.append(expected.alternatives[0][1] - expected.alternatives[1][1])
                break
            largest = max(largest, abs(expected.logprob - found.logprob))
        else:
            equal += 1
    print(
        f"equal greedy answers: {equal} of {len(requests)}; log-probabilities of equal tokens differ by at most"
        f" {largest:.1e}; ",
        end="",
    )
    print("gaps between the two best tokens at differences: " + (", ".join(f"{gap:.1e}" for gap in gaps) or "none"))


if __name__ == "__main__":
    main()
