"""Fine-tunes that train on several workers, for tests: submitting, comparing and finding their processes."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from examples.tiny_checkpoint import CONVERSATIONS
from jobs.records import JobDetails
from tests.workers.deployment import Deployment

TOLERANCE = {"ddp": 3e-7, "fsdp2": 3e-7, "zero2": 3e-7, "zero3": 1.4e-5}
PATIENCE = 250  # each attempt starts new ranks, whose imports take long on a busy machine


def train(service: Deployment, **fields: Any) -> str:
    """Submit a short fine-tune on the model "tiny"."""
    data = service.upload(CONVERSATIONS, "fine-tune").id
    training = {"training_file": data, "epochs": 2, "max_length": 64, "lora_dropout": 0.0, "packing": False}
    return service.submit(kind="finetune", model="tiny", **{**training, **fields})


def adapter(service: Deployment, job: JobDetails) -> dict[str, torch.Tensor]:
    """Return the weights that a job has trained."""
    return load(service.read(service.artifacts(job.id)["model/adapter_model.safetensors"]))


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between the weights of two adapters."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def runners_of(service: Deployment, worker: str) -> set[int]:
    """Return the process groups of all runners that a worker has started."""
    return {int(group) for group in re.findall(r"running as process group (\d+)", service.log_of(worker))}


def processes_of(groups: set[int]) -> dict[int, bytes]:
    """Return the command lines of the running processes in process groups, by process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if os.getpgid(int(entry.name)) in groups:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes()
    return found


def ranks_of(service: Deployment, *workers: str) -> list[int]:
    """Return the processes that train for the jobs of these workers."""
    groups = set().union(*(runners_of(service, worker) for worker in workers))
    return sorted(process for process, command in processes_of(groups).items() if b"rank_main" in command)
