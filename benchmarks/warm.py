"""Compare the time to the first token on a model that a runner keeps loaded with that on a model to be loaded.

Usage: python -m benchmarks.warm [--layers 11] [--models 4] [--repeats 5]

A service with one worker runs jobs on random models of the 7B family, which are hard links to the same files. The very
first job is submitted as soon as the service has started, so it also waits for the imports of the worker. The first job
on each other model loads it, alternately from disk and from the system's page cache. Later jobs use the loaded model.
The time is measured from the job's acceptance to its first token, according to the job's log. Fails if a loaded model
is less than 20 times as fast as the very first job, or if the models do not all stay loaded. See benchmarks/README.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
import torch
from safetensors.torch import save_file

from baichuan_client import Client
from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from examples.tiny_checkpoint import make_tiny_checkpoint
from jobs.database import Database
from jobs.settings import Settings

MIN_RATIO = 20
FIRST = "on the disk, and the service has just started"
# Short reporting intervals, because they limit the precision of times in the log.
INTERVALS = {"BAICHUAN_WORKER_PROGRESS_SECONDS": "0.01", "BAICHUAN_WORKER_DIRECTIVE_SECONDS": "0.01"}
SIZES = {"hidden_size": 2048, "intermediate_size": 5504, "num_attention_heads": 16}


def make_checkpoint(directory: Path, layers: int) -> None:
    """Write a random bfloat16 model with the tiny checkpoint's tokenizer."""
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


def make_checkpoints(root: Path, layers: int, models: int) -> None:
    """Write model-0, and further models as links to its files."""
    make_checkpoint(root / "model-0", layers)
    for number in range(1, models):
        (root / f"model-{number}").mkdir()
        for file in (root / "model-0").iterdir():
            os.link(file, root / f"model-{number}" / file.name)


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the milliseconds to the first token by the location of the model."""
    root = Settings().allowed_model_roots[0]
    found: dict[str, list[str]] = {FIRST: [], "on the disk": [], "in the page cache": [], "loaded": []}
    with Client() as client:
        for number in range(options.models):
            client.models.register(f"model-{number}", root / f"model-{number}")
            location = FIRST if number == 0 else "on the disk" if number % 2 else "in the page cache"
            if location != "in the page cache":
                evict(root / "model-0" / "model.safetensors")
            found[location].append(run(client, f"model-{number}"))
        for number in range(options.models * options.repeats):
            found["loaded"].append(run(client, f"model-{number % options.models}"))
    return {location: [find_first_token(job) for job in jobs] for location, jobs in found.items()}


def evict(file: Path) -> None:
    """Remove a file from the page cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(client: Client, model: str) -> str:
    """Run a job of several one-token completions, one after the other, and return its id."""
    spec = {"kind": "generate", "model": model, "prompts": list("abcdefgh"), "max_new_tokens": 1, "batch_size": 1}
    return client.jobs.submit(spec).wait().id


def find_first_token(job_id: str) -> float:
    """Return the milliseconds from a job's acceptance to the first report of a finished completion."""
    query = sa.text(
        "SELECT e.created_at - j.created_at, e.data FROM jobs j JOIN events e ON e.job_id = j.id"
        " WHERE j.id = :id AND e.type = 'progress' ORDER BY e.sequence"
    )
    with Database(Settings().effective_database_url).reading() as connection:
        rows = connection.execute(query, {"id": job_id}).all()
    return next(float(passed) for passed, data in rows if json.loads(data)["stage"] == "generating")


def loaded_models() -> set[str]:
    """Return the models that the worker reports as loaded."""
    with Client() as client:
        workers = client.request("GET", "/v1/workers")["data"]
    return {model["id"] for worker in workers for model in worker["models"]}


def main() -> None:
    """Start a service and run the measurement against it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=11, help="number of layers, of 101 MB each")
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="later jobs on each model")
    options = parser.parse_args()
    if "BAICHUAN_URL" not in os.environ:
        with tempfile.TemporaryDirectory() as home:
            again = [sys.executable, "-m", "benchmarks.warm", *sys.argv[1:]]
            baichuan = Path(sys.executable).with_name("baichuan")
            python_path = str(Path(__file__).parents[1])
            make_checkpoints(Settings(home=Path(home)).allowed_model_roots[0], options.layers, options.models)
            environment = {**os.environ, **INTERVALS, "BAICHUAN_HOME": home, "PYTHONPATH": python_path}
            sys.exit(subprocess.run([baichuan, "up", "--", *again], env=environment, check=False).returncode)
    measured = measure(options)
    size = (Settings().allowed_model_roots[0] / "model-0" / "model.safetensors").stat().st_size
    resident = sorted(loaded_models())
    print(f"\nmodels of {size / 1e9:.2f} GB; loaded at the end: {', '.join(resident)}\n")
    print("| model was | median | maximum | ratio to loaded |\n| --- | --- | --- | --- |")
    loaded = statistics.median(measured["loaded"])
    for location, times in measured.items():
        if not times:
            continue
        median = statistics.median(times)
        print(f"| {location} | {median:.0f} ms | {max(times):.0f} ms | {median / loaded:.1f} |")
    if measured[FIRST][0] < MIN_RATIO * loaded or len(resident) < options.models:
        sys.exit(f"loaded: less than {MIN_RATIO} times as fast as the first job, or not all models stayed loaded")


if __name__ == "__main__":
    main()
