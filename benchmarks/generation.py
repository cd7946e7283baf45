"""Compare our generation engine with transformers' ways to generate: `python -m benchmarks.generation`.

The result is useful tokens per second. Only the requested tokens are useful: a static batch computes each row until the
longest one ends, and tokens after a row's own end do not count. The model is random with 33 million parameters and
never ends a completion early, so every way generates the same number of useful tokens.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from baichuan_core import (
    BaichuanConfig,
    BaichuanForCausalLM,
    GenerationOptions,
    GenerationRequest,
    TextGenerator,
    load_model,
)
from examples.tiny_checkpoint import make_tiny_checkpoint

SHAPE: dict[str, Any] = {
    "vocab_size": 8000,  # so that the end token, 8000, is never generated
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "model_max_length": 1024,
    "norm_head": True,
}
Family = Literal["7b", "13b"]


@dataclass(frozen=True, slots=True)
class Work:
    """Prompts and the number of new tokens for each."""

    name: str
    prompts: list[list[int]]
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Number of useful tokens."""
        return sum(self.lengths)


def make_works(count: int) -> list[Work]:
    """Create three workloads: mixed lengths, equal lengths, and a shared system prompt."""
    choice = random.Random(7)  # noqa: S311 - not used for security

    def prompt(length: int) -> list[int]:
        return [choice.randrange(300, 1000) for _ in range(length)]

    system = prompt(192)
    mixed = Work(
        "mixed lengths",
        [prompt(choice.randint(8, 128)) for _ in range(count)],
        [choice.randint(16, 160) for _ in range(count)],
    )
    equal = Work("equal lengths", [prompt(64) for _ in range(count)], [64] * count)
    shared = Work("one system prompt", [system + prompt(choice.randint(8, 32)) for _ in range(count)], [32] * count)
    return [mixed, equal, shared]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forms", nargs="+", choices=("7b", "13b"), default=("7b", "13b"))
    parser.add_argument("--generate-batch", action="store_true", help="also measure transformers' continuous batching")
    parser.add_argument("--vllm", action="store_true", help="also measure our vLLM engine; requires vLLM")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    print("| family | work | way | useful tokens/s | ratio to the loop | ratio to the static batch |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in arguments.forms:
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = _make_checkpoint(Path(directory), family)
            options = _make_options(arguments.requests)
            engines = {"ours": TextGenerator(checkpoint, options)}
            if arguments.vllm:
                engines["vLLM"] = TextGenerator(checkpoint, replace(options, engine="vllm"))
            model = load_model(checkpoint, dtype="float32", device="cpu")
            for work in make_works(arguments.requests):
                _measure(family, work, engines, model, arguments)


def _measure(
    family: Family,
    work: Work,
    engines: dict[str, TextGenerator],
    model: BaichuanForCausalLM,
    arguments: argparse.Namespace,
) -> None:
    ways: dict[str, Callable[[], object]] = {
        "loop of generate": lambda: _loop(model, work),
        "static batch": lambda: _static(model, work.prompts, work.lengths),
        **{name: partial(_answer, engine, work) for name, engine in engines.items()},
    }
    if arguments.generate_batch:
        ways["generate_batch"] = lambda: _generate_batch(model, work)
    for engine in engines.values():
        _answer(engine, work)  # loads the model and compiles
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    rates = {name: work.tokens / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        to_loop, to_static = rate / rates["loop of generate"], rate / rates["static batch"]
        print(f"| {family} | {work.name} | {name} | {rate:.0f} | {to_loop:.2f} | {to_static:.2f} |", flush=True)


def _answer(generator: TextGenerator, work: Work) -> None:
    encoded = generator.encode([GenerationRequest(prompt="a", max_new_tokens=length) for length in work.lengths])
    requests = [replace(one, prompt_ids=tuple(prompt)) for one, prompt in zip(encoded, work.prompts, strict=True)]
    tokens = sum(step.token_count for step in generator.run(requests))
    if tokens != work.tokens:
        raise RuntimeError(f"{tokens} tokens instead of {work.tokens}")


def _loop(model: BaichuanForCausalLM, work: Work) -> None:
    for prompt, length in zip(work.prompts, work.lengths, strict=True):
        _static(model, [prompt], [length])


def _static(model: BaichuanForCausalLM, prompts: Sequence[list[int]], lengths: Sequence[int]) -> None:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.generate(ids, attention_mask=mask, max_new_tokens=max(lengths), do_sample=False)


def _generate_batch(model: Any, work: Work) -> None:
    config = GenerationConfig(max_new_tokens=max(work.lengths), do_sample=False, pad_token_id=0, eos_token_id=8000)
    model.generate_batch(work.prompts, generation_config=config, progress_bar=False)


def _make_options(requests: int) -> GenerationOptions:
    return GenerationOptions(
        temperature=0,
        repetition_penalty=1.0,
        batch_size=requests,
        dtype="float32",
        device="cpu",
        engine="transformers",
    )


def _make_checkpoint(directory: Path, family: Family) -> Path:
    make_tiny_checkpoint(directory)
    torch.manual_seed(0)
    shape = SHAPE | {"position_embedding": "rope" if family == "7b" else "alibi"}
    BaichuanForCausalLM(BaichuanConfig(**shape)).save_pretrained(directory)
    (directory / "generation_config.json").write_text('{"eos_token_id": 8000, "pad_token_id": 0}')
    return directory


if __name__ == "__main__":
    main()
