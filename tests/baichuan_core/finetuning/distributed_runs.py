"""Runs on two ranks and on one process, for comparison."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file
from torch import Tensor

from baichuan_core import Distribution, FinetuningOptions, FinetuningReport, Progress, finetune
from examples.tiny_checkpoint import CONVERSATIONS

# An epsilon that is not small, because AdamW would magnify rounding of gradients near 0.
OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "learning_rate": 1e-3,
    "max_length": 128,
    "batch_size": 4,
    "adam_epsilon": 1e-3,
    "lora_dropout": 0.0,
    "dtype": "float32",
    "device": "cpu",
    "save_steps": 2,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run: its report, weights, and losses in order."""

    report: FinetuningReport
    weights: Mapping[str, Tensor]
    losses: list[float]
    eval_losses: list[float]


def run(
    base: Path,
    directory: Path,
    options: Mapping[str, Any],
    distribution: Distribution | None = None,
    *,
    data: Path = CONVERSATIONS,
    on_progress: Callable[[Progress], None] = lambda _: None,
    **arguments: Any,
) -> Outcome:
    """Run in `directory`, with resume points in its folder `checkpoints` and records in `records`."""
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        on_progress(progress)

    report = finetune(
        base,
        data,
        directory / "output",
        FinetuningOptions(**OPTIONS | dict(options)),
        checkpoints=directory / "checkpoints",
        records=directory / "records",
        distribution=distribution,
        on_progress=note,
        **arguments,
    )
    return Outcome(
        report=report,
        weights=load_file(next((directory / "output").glob("*model.safetensors"))),
        losses=[progress.metrics["loss"] for progress in seen if progress.stage == "training"],
        eval_losses=[progress.metrics["eval_loss"] for progress in seen if progress.stage == "evaluating"],
    )


def rank_processes() -> list[psutil.Process]:
    """Return the ranks that this process has started, by rank."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    return sorted((child for child in children if _is_rank(child)), key=lambda child: child.pid)


def _is_rank(process: psutil.Process) -> bool:
    try:
        return any(part.endswith("rank_main.py") for part in process.cmdline())
    except psutil.Error:
        return False
