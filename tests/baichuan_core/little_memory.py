"""Answer prompts in a process with little memory; run by test_out_of_memory.py.

Use: `python -m tests.baichuan_core.little_memory CHECKPOINT BYTES`.
Prints how many rows each pass had, then which were answered.
"""

import json
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from baichuan_core import load_model, load_tokenizer
from baichuan_core.generation import GenerationOptions
from baichuan_core.generation.engines.contract import EncodedRequest, SamplingSettings
from baichuan_core.generation.engines.native.engine import NativeEngine
from tests.baichuan_core.generation.driving import run

ROWS = 8
LONGEST = 60_000  # keys and values are allocated for this length, although the first token ends the answer


def limit_memory(more: int) -> None:
    """Limit the additional memory of this process."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))


def main(checkpoint: str, more: str) -> None:
    """Answer."""
    torch.set_num_threads(1)
    model, tokenizer = load_model(checkpoint, dtype="float32", device="cpu"), load_tokenizer(checkpoint)
    greedy = SamplingSettings(temperature=0, top_k=0, top_p=1, repetition_penalty=1)
    requests = [EncodedRequest(i, 0, (10 + i, 20 + i, 30 + i), LONGEST, i, greedy) for i in range(ROWS)]
    settings = GenerationOptions(batch_size=ROWS, batch_tokens=2 * ROWS * LONGEST)
    engine = NativeEngine(model, tokenizer, settings, frozenset(range(model.config.vocab_size)))
    rows: list[int] = []

    def note(_module: object, _args: object, kwargs: dict[str, Tensor]) -> None:
        rows.append(len(kwargs["input_ids"]))

    model.model.register_forward_pre_hook(note, with_kwargs=True)
    if int(more):
        limit_memory(int(more))
    steps = list(run(engine, requests))
    answered = sorted(one.index for step in steps for one in step.completions)
    sys.stdout.write(json.dumps([rows, answered]))


if __name__ == "__main__":
    main(*sys.argv[1:])
