"""Run llama.cpp's server through xllamacpp alone, as an upper bound; run by path, so that torch is not imported.

Usage: `python benchmarks/llama_binding.py MODEL SLOTS SLOT_TOKENS THREADS`

Each line of stdin is a JSON list of prompts (token ids) with their limits; the reply is the number of tokens and
seconds.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xllamacpp


def main() -> None:
    """Answer lines until stdin closes."""
    slots, slot_tokens, threads = map(int, sys.argv[2:])
    server = start(sys.argv[1], slots, slot_tokens, threads)

    def ask(prompt: list[int], limit: int) -> int:
        answer = server.handle_completions({"prompt": prompt, "max_tokens": limit, "temperature": 0})
        return int(answer["usage"]["completion_tokens"])

    with ThreadPoolExecutor(slots) as pool:
        for line in sys.stdin:
            prompts, limits = zip(*json.loads(line), strict=True)
            started = time.perf_counter()
            tokens = sum(pool.map(ask, prompts, limits))
            print(json.dumps([tokens, time.perf_counter() - started]), flush=True)
    os._exit(0)  # do not wait for the server's threads


def start(model: str, slots: int, slot_tokens: int, threads: int) -> Any:
    """Start the server."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_parallel, parameters.n_ctx = slots, slots * slot_tokens
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.verbosity = -1
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    main()
