"""Compare chats through the service with llama.cpp's own server; see benchmarks/README.md.

Usage: python -m benchmarks.chat [--streams 1 8 32 64] [--rounds 3] [--tokens 48] [--type q8_0]

Both sides stream completions of the same GGUF file of a trained model, with the same number of slots, tokens per slot
and threads, in alternating rounds of one service and one server that both stay loaded. Prints the median time to the
first text and the tokens per second of both, and fails if the service has less than 0.9 times the server's tokens per
second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import httpx

from baichuan_core import GenerationOptions, convert
from baichuan_core.conversion import GgufType
from baichuan_core.generation.engines.capacity import compute_serving_capacity
from baichuan_core.generation.engines.llama_cpp.server import LlamaServer
from benchmarks.chat_client import Measurement, measure
from benchmarks.real_model import CACHE, make_real_checkpoint

MIN_RATIO = 0.9
END_TOKEN = 2
WINDOW = 500  # slots of 512 tokens
SUBJECTS = ("the printing press", "bread without kneading", "a blue sky", "job queues", "bees in winter", "the piano")


def main() -> None:
    """Start a service and measure inside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each completion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--type", choices=("f16", "q8_0", "q4_0"), default="q8_0")
    arguments = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        sys.exit(_run_again_inside_a_service(arguments.threads))
    print("| streams | slots | first text, service | llama.cpp | tokens/s, service | llama.cpp | ratio |")
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
        baichuan = Path(sys.executable).with_name("baichuan")
        again = [sys.executable, "-m", "benchmarks.chat", *sys.argv[1:]]
        return subprocess.run([baichuan, "up", "--", *again], env=environment, check=False).returncode


def _compare(streams: int, arguments: argparse.Namespace) -> float:
    """Print one row; return the ratio of the tokens per second."""
    gguf_type: GgufType = arguments.type
    model, window = _make_model(gguf_type), WINDOW
    capacity = compute_serving_capacity(window, GenerationOptions(batch_size=streams, batch_tokens=16_384))
    server = LlamaServer(model / "model.gguf", capacity, arguments.threads)
    sides: dict[str, list[Measurement]] = {"service": [], "llama.cpp": []}
    addresses = {
        "service": (os.environ["BAICHUAN_URL"], os.environ["BAICHUAN_API_KEY"]),
        "llama.cpp": (f"http://127.0.0.1:{server.port}", server.headers["Authorization"].removeprefix("Bearer ")),
    }
    url, key = addresses["service"]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        client.post("/v1/models", json={"id": model.name, "path": str(model)})
        spec = {"kind": "serve", "model": model.name, "batch_size": streams, "idle_seconds": 600}
        job = client.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
        for number in range(arguments.rounds + 1):
            for side, (url, key) in addresses.items():
                bodies = [_body(model.name, number, stream, arguments.tokens) for stream in range(streams)]
                measured = measure(url, key, bodies, path="/v1/completions")
                if number:  # the first round warms up
                    sides[side].append(measured)
        client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    server.end()
    first = {side: median(one for each in rounds for one in each.first_text) for side, rounds in sides.items()}
    rates = {side: median(each.tokens_per_second for each in rounds) for side, rounds in sides.items()}
    ratio = rates["service"] / rates["llama.cpp"]
    times = f"{first['service'] * 1000:.0f} ms | {first['llama.cpp'] * 1000:.0f} ms"
    print(
        f"| {streams} | {capacity.slots} | {times} | {rates['service']:.0f} | {rates['llama.cpp']:.0f} | {ratio:.2f} |",
        flush=True,
    )
    return ratio


def _make_model(gguf_type: GgufType) -> Path:
    """Return the GGUF model, whose configuration promises a short window, so that many slots fit into the memory."""
    model = CACHE / f"smollm2-{gguf_type}-{WINDOW}"
    if not model.is_dir():
        convert(CACHE / "smollm2", model, "gguf", gguf_type=gguf_type)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "model_max_length": WINDOW}))
    return model


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
