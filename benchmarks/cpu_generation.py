"""Generation on a CPU with a trained model, in one run: `python -m benchmarks.cpu_generation`; see README.md here.

24 prompts are answered with 16 to 160 tokens each. The ways: the published one (a loop of `generate` in float32), the
same in bfloat16, one static left-padded batch, our own engine, llama.cpp through its binding alone, our engine around
it, and a generate job through REST, queue and worker, by the time that the job itself tells. Useful tokens a second:
those up to each answer's end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baichuan_core import GenerationOptions, GenerationRequest, TextGenerator, convert, load_model, load_tokenizer
from baichuan_core.conversion import GgufType
from benchmarks.real_model import CACHE, make_real_checkpoint
from examples.service_client import ServiceClient

TYPES: tuple[GgufType, ...] = ("f16", "q8_0", "q4_0")
TORCH_WAYS = ("published loop, float32", "loop, bfloat16", "static batch, float32", "our engine, float32")
LLAMA_WAYS = (
    "binding alone, one by one,",
    "binding alone,",
    "our llama_cpp engine,",
    "generate job, its own clock,",
)
SLOTS = 24
JOB_SECONDS: list[float] = []  # of generating, as jobs told
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
    """Prompts, and the most tokens that each is answered with."""

    prompts: list[str]
    limits: list[int]

    @classmethod
    def mixed(cls, count: int) -> "Work":
        """Every subject in every form, with limits from 16 to 160."""
        prompts = [opening.format(subject) for opening in OPENINGS for subject in SUBJECTS][:count]
        return cls(prompts, [16 + (number * 61) % 145 for number in range(len(prompts))])

    def requests(self) -> list[GenerationRequest]:
        """As our engines take them."""
        return [
            GenerationRequest(prompt=prompt, max_new_tokens=limit)
            for prompt, limit in zip(self.prompts, self.limits, strict=True)
        ]


class Loaded:
    """transformers' `generate` on our model, which is the published model's mathematics."""

    def __init__(self, checkpoint: Path, dtype: Any) -> None:
        self._model = load_model(checkpoint, dtype=dtype, device="cpu")
        self._tokenizer = load_tokenizer(checkpoint)

    def loop(self, work: Work) -> int:
        """One prompt after the other; the tokens that came."""
        return sum(self._generate([prompt], [limit]) for prompt, limit in zip(work.prompts, work.limits, strict=True))

    def static(self, work: Work) -> int:
        """All prompts in one left-padded batch, until the longest limit; useful tokens."""
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
    """llama.cpp's server through xllamacpp alone, asked from one thread a slot."""

    def __init__(self, file: Path, checkpoint: Path, slots: int) -> None:
        import xllamacpp  # noqa: PLC0415 - loads 100 MB

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_parallel, parameters.n_ctx = slots, slots * 256
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
        parameters.verbosity = -1
        self._server = xllamacpp.Server(parameters)
        self._tokenizer = load_tokenizer(checkpoint)
        self._slots = slots

    def batch(self, work: Work) -> int:
        """All prompts at once; the tokens that came."""
        with ThreadPoolExecutor(self._slots) as pool:
            return sum(pool.map(self._ask, work.prompts, work.limits))

    def loop(self, work: Work) -> int:
        """One prompt after the other; the tokens that came."""
        return sum(map(self._ask, work.prompts, work.limits))

    def _ask(self, prompt: str, limit: int) -> int:
        ids = self._tokenizer(prompt).input_ids
        answer = self._server.handle_completions({"prompt": ids, "max_tokens": limit, "temperature": 0})
        return int(answer["usage"]["completion_tokens"])


def main() -> None:
    """Start a service, and measure inside it, each way in a process of its own: idle threads slow each other down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        sys.exit(_again_inside_a_service(arguments.threads))
    torch.set_num_threads(arguments.threads)
    work, checkpoint = Work.mixed(arguments.prompts), make_real_checkpoint(CACHE / "smollm2")
    if arguments.way:
        _measure(arguments.way, work, checkpoint)
        return
    for gguf_type in arguments.types:
        _convert(checkpoint, gguf_type)
    print("| way | useful tokens/s | ratio to the published way |\n| --- | --- | --- |")
    published = 0.0
    for way in [*TORCH_WAYS, *(f"{form} {gguf_type}" for gguf_type in arguments.types for form in LLAMA_WAYS)]:
        command = [sys.executable, "-m", "benchmarks.cpu_generation", *sys.argv[1:], "--way", way]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rate = float(printed.split()[-1])
        published = published or rate
        print(f"| {way} | {rate:.0f} | {rate / published:.2f} |", flush=True)
    _print_equality(checkpoint, _gguf("f16"))


def _measure(way: str, work: Work, checkpoint: Path) -> None:
    """Useful tokens a second, after a warm-up."""
    with ExitStack() as stack:
        run = _torch_way(way, checkpoint) if way in TORCH_WAYS else _llama_way(way, checkpoint, stack)
        run(Work(work.prompts[:2], [4, 4]))
        started = time.perf_counter()
        tokens = run(work)
        seconds = time.perf_counter() - started
        print(tokens / (JOB_SECONDS[-1] if JOB_SECONDS else seconds))


def _torch_way(way: str, checkpoint: Path) -> Way:
    match way:
        case "published loop, float32":
            return Loaded(checkpoint, "float32").loop
        case "loop, bfloat16":
            return Loaded(checkpoint, "bfloat16").loop
        case "static batch, float32":
            return Loaded(checkpoint, "float32").static
        case _:
            return _engine(checkpoint)


def _llama_way(way: str, checkpoint: Path, stack: ExitStack) -> Way:
    form, _, gguf_type = way.rpartition(" ")
    model = _gguf(gguf_type)
    match form:
        case "binding alone, one by one,":
            return Binding(model / "model.gguf", checkpoint, 1).loop
        case "binding alone,":
            return Binding(model / "model.gguf", checkpoint, SLOTS).batch
        case "our llama_cpp engine,":
            return _engine(model)
        case _:
            return stack.enter_context(_job(model, f"smollm2-{gguf_type}"))


def _gguf(gguf_type: str) -> Path:
    return CACHE / f"smollm2-{gguf_type}"


def _convert(checkpoint: Path, gguf_type: GgufType) -> None:
    if not _gguf(gguf_type).is_dir():
        convert(checkpoint, _gguf(gguf_type), "gguf", gguf_type=gguf_type)


def _again_inside_a_service(threads: int) -> int:
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


def _engine(checkpoint: Path) -> Way:
    options = GenerationOptions(temperature=0, repetition_penalty=1.0, batch_size=SLOTS, device="cpu")
    generator = TextGenerator(checkpoint, options)
    generator.load()
    return lambda work: sum(step.tokens for step in generator.run(generator.encode(work.requests())))


@contextmanager
def _job(checkpoint: Path, name: str) -> Iterator[Way]:
    with ServiceClient() as client, tempfile.TemporaryDirectory() as folder:
        client.register(name, checkpoint)
        prompts = Path(folder) / "prompts.jsonl"

        def run(work: Work) -> int:
            lines = [
                json.dumps({"prompt": prompt, "max_new_tokens": limit})
                for prompt, limit in zip(work.prompts, work.limits, strict=True)
            ]
            prompts.write_text("\n".join(lines), encoding="utf-8")
            uploaded = client.upload(prompts, "batch")
            settings = {"temperature": 0, "repetition_penalty": 1.0, "batch_size": SLOTS}
            job = client.run(kind="generate", model=name, input_file=uploaded, **settings)
            JOB_SECONDS.append(job["result"]["seconds"])
            return int(job["result"]["completion_tokens"])

        yield run


def _print_equality(checkpoint: Path, gguf: Path) -> None:
    """Greedy answers of llama.cpp from a float16 file beside those of our float32 engine: 16 prompts, 32 tokens."""
    requests = [GenerationRequest(prompt=prompt, max_new_tokens=32) for prompt in Work.mixed(16).prompts]
    options = GenerationOptions(temperature=0, repetition_penalty=1.0, logprobs=2, device="cpu")
    mine, theirs = (TextGenerator(where, options).complete(requests) for where in (checkpoint, gguf))
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
        f"greedy answers equal: {equal} of {len(requests)}; logits differ by {largest:.1e} at most until then; ", end=""
    )
    print("gaps of the two best where they part: " + (", ".join(f"{gap:.1e}" for gap in gaps) or "none"))


if __name__ == "__main__":
    main()
