"""Measure how much sooner a job starts on a model that a runner keeps loaded; see benchmarks/README.md.

Usage: python -m benchmarks.warm [--layers 11] [--rounds 3] [--repeats 10]

A service with one worker runs jobs of one token on random models of the 7B family, which have hard links to the same
files. The first job on each model loads it, the others find it loaded. Fails if the first token does not come 20 times
sooner than on a model that must be loaded, or if the models do not stay loaded at the same time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import sqlalchemy as sa
import torch
from safetensors.torch import save_file

from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from examples.service_client import ServiceClient
from examples.tiny_checkpoint import make_tiny_checkpoint
from jobs.database import Database
from jobs.settings import Settings

MIN_RATIO = 20
SIZES = {"hidden_size": 2048, "intermediate_size": 5504, "num_attention_heads": 16}


def make_checkpoint(directory: Path, layers: int) -> int:
    """Write a random bfloat16 model with the tiny checkpoint's tokenizer; return the bytes of its weights."""
    make_tiny_checkpoint(directory)
    settings = json.loads((directory / "config.json").read_text()) | SIZES | {"num_hidden_layers": layers}
    settings["torch_dtype"] = "bfloat16"
    (directory / "config.json").write_text(json.dumps(settings))
    for file in directory.glob("*.safetensors*"):
        file.unlink()
    torch.manual_seed(0)
    model = BaichuanForCausalLM(BaichuanConfig(**settings))
    weights = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return (directory / "model.safetensors").stat().st_size


def measure(layers: int, rounds: int, repeats: int) -> tuple[list[float], list[float], int]:
    """Return the milliseconds from submission to the end of first and of later jobs, and the bytes of a model."""
    settings = Settings()
    root = settings.allowed_model_roots[0]
    size = make_checkpoint(root / "model-0", layers)
    for number in range(1, rounds):
        (root / f"model-{number}").mkdir()
        for file in (root / "model-0").iterdir():
            os.link(file, root / f"model-{number}" / file.name)
    with ServiceClient() as client:
        client.register("tiny", make_tiny_checkpoint(root / "tiny"))
        run(client, "tiny")  # waits for the worker's imports
        for number in range(rounds):
            client.register(f"model-{number}", root / f"model-{number}")
        cold = [run(client, f"model-{number}") for number in range(rounds)]
        warm = [run(client, f"model-{number % rounds}") for number in range(rounds * repeats)]
    return [elapsed(job) for job in cold], [elapsed(job) for job in warm], size


def run(client: ServiceClient, model: str) -> str:
    """Run a job of one token; return its id."""
    return str(client.run(kind="generate", model=model, prompts=["a"], max_new_tokens=1)["id"])


def elapsed(job_id: str) -> float:
    """Return the milliseconds from a job's acceptance to its end, which is a little after its only token."""
    query = sa.text("SELECT finished_at - created_at FROM jobs WHERE id = :id")
    with Database(Settings().database).reading() as connection:
        return float(connection.execute(query, {"id": job_id}).scalar_one())


def loaded_models() -> set[str]:
    """Return the models that the worker reports as loaded."""
    headers = {"Authorization": f"Bearer {os.environ['BAICHUAN_API_KEY']}"}
    answer = httpx.get(f"{os.environ['BAICHUAN_URL']}/v1/workers", headers=headers).raise_for_status().json()
    return {model["id"] for worker in answer["data"] for model in worker["models"]}


def main() -> None:
    """Start a service and run the measurement against it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=11, help="of 101 MB each")
    parser.add_argument("--rounds", type=int, default=3, help="number of models")
    parser.add_argument("--repeats", type=int, default=10, help="later jobs on each model")
    options = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        with tempfile.TemporaryDirectory() as home:
            again = [sys.executable, "-m", "benchmarks.warm", *sys.argv[1:]]
            baichuan = Path(sys.executable).with_name("baichuan")
            environment = {**os.environ, "BAICHUAN_HOME": home, "PYTHONPATH": str(Path(__file__).parents[1])}
            sys.exit(subprocess.run([baichuan, "up", "--", *again], env=environment, check=False).returncode)
    cold, warm, size = measure(options.layers, options.rounds, options.repeats)
    resident = sorted(loaded_models() - {"tiny"})
    ratio = statistics.median(cold) / statistics.median(warm)
    print(f"\nmodels of {size / 1e9:.2f} GB; loaded at the end: {', '.join(resident)}\n")
    print("| job of one token, from acceptance to its end | median | worst |\n| --- | --- | --- |")
    print(f"| first on its model | {statistics.median(cold):.0f} ms | {max(cold):.0f} ms |")
    print(f"| later, on a loaded model | {statistics.median(warm):.0f} ms | {max(warm):.0f} ms |")
    print(f"\nratio of the medians: {ratio:.1f}")
    if ratio < MIN_RATIO or len(resident) < min(options.rounds, 2):
        sys.exit("not fast enough, or the models did not stay loaded")


if __name__ == "__main__":
    main()
