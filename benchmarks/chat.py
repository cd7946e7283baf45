"""Compare chats through the service with the engine's own server; see benchmarks/README.md.

Usage: python -m benchmarks.chat [--streams 1 8 32 64] [--rounds 3] [--tokens 128] [--engine llama_cpp] [--type q8_0]

With `--engine llama_cpp`, both sides run the same GGUF file of a trained model, with `--engine vllm` the same
checkpoint; the latter needs the environment of `make test-vllm`. Both stream completions with the same number of slots,
tokens per slot and threads, in alternating rounds of one service and one server that both stay loaded. Prints the
median time to the first text and the tokens per second of both, and fails if the service has less than 0.9 times the
server's tokens per second.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import httpx

from baichuan_core import GenerationOptions
from baichuan_core.generation.engines.capacity import compute_serving_capacity
from benchmarks.chat_client import Measurement, measure
from benchmarks.chat_servers import (
    WINDOW,
    make_checkpoint,
    make_gguf_model,
    start_llama_cpp,
    start_vllm,
    wait_until_answering,
)
from benchmarks.real_model import CACHE, make_real_checkpoint

MIN_RATIO = 0.9
END_TOKEN = 2
SUBJECTS = ("the printing press", "bread without kneading", "a blue sky", "job queues", "bees in winter", "the piano")


def main() -> None:
    """Start a service and measure inside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each completion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", choices=("llama_cpp", "vllm"), default="llama_cpp")
    parser.add_argument("--type", choices=("f16", "q8_0", "q4_0"), default="q8_0")
    arguments = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        sys.exit(_run_again_inside_a_service(arguments.threads))
    own = f"{arguments.engine}'s server"
    print(f"| streams | slots | first text, service | {own} | tokens/s, service | {own} | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    ratios = [_compare(streams, arguments) for streams in arguments.streams]
    sys.exit(min(ratios) < MIN_RATIO)


def _run_again_inside_a_service(threads: int) -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    make_real_checkpoint(CACHE / "smollm2")
    with tempfile.TemporaryDirectory(dir=CACHE) as home:
        environment = {
            **os.environ,
            "BAICHUAN_HOME": home,
            "BAICHUAN_MODEL_ROOTS": str(CACHE),
            "BAICHUAN_WORKER_THREADS": str(threads),
            "BAICHUAN_CHATS_PER_PROJECT": "256",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        baichuan = [sys.executable, "-c", "from cli.main import run; run()"]  # vLLM's environment has no `baichuan`
        again = [sys.executable, "-m", "benchmarks.chat", *sys.argv[1:]]
        return subprocess.run([*baichuan, "up", "--", *again], env=environment, check=False).returncode


def _compare(streams: int, arguments: argparse.Namespace) -> float:
    """Print one row; return the ratio of the tokens per second."""
    uses_vllm = arguments.engine == "vllm"
    model = make_checkpoint() if uses_vllm else make_gguf_model(arguments.type)
    capacity = compute_serving_capacity(WINDOW, GenerationOptions(batch_size=streams, batch_tokens=16_384))
    server = (start_vllm if uses_vllm else start_llama_cpp)(model, capacity, arguments.threads)
    sides: dict[str, list[Measurement]] = {"service": [], "own server": []}
    addresses = {
        "service": (os.environ["BAICHUAN_URL"], os.environ["BAICHUAN_API_KEY"]),
        "own server": (server.url, server.key),
    }
    url, key = addresses["service"]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        client.post("/v1/models", json={"id": model.name, "path": str(model)})
        spec = {"kind": "serve", "model": model.name, "batch_size": streams, "idle_seconds": 600}
        job = client.post("/v1/jobs", json={**spec, "engine": arguments.engine}).raise_for_status().json()["id"]
        with server.suspended():
            wait_until_answering(url, key, model.name)
        for number in range(arguments.rounds + 1):
            for side, (url, key) in addresses.items():
                bodies = [_body(model.name, number, stream, arguments.tokens) for stream in range(streams)]
                with server.suspended() if side == "service" else nullcontext():
                    measured = measure(url, key, bodies, path="/v1/completions")
                if number:  # the first round warms up
                    sides[side].append(measured)
        client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    server.end()
    first = {side: median(one for each in rounds for one in each.first_text) for side, rounds in sides.items()}
    rates = {side: median(each.tokens_per_second for each in rounds) for side, rounds in sides.items()}
    ratio = rates["service"] / rates["own server"]
    times = f"{first['service'] * 1000:.0f} ms | {first['own server'] * 1000:.0f} ms"
    tokens = f"{rates['service']:.0f} | {rates['own server']:.0f} | {ratio:.2f}"
    print(f"| {streams} | {capacity.slots} | {times} | {tokens} |", flush=True)
    return ratio


def _body(model: str, number: int, stream: int, tokens: int) -> dict[str, object]:
    """Return a request that no earlier one shares a prefix with, and that always takes all tokens."""
    prompt = f"{number}.{stream}: a short text about {SUBJECTS[stream % len(SUBJECTS)]}, for readers in a hurry."
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "logit_bias": {str(END_TOKEN): -100},
    }


if __name__ == "__main__":
    main()
