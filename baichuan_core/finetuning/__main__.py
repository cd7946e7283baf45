"""Command that fine-tunes on this machine: `python -m baichuan_core.finetuning TASK`, run by `baichuan finetune`.

TASK is a JSON object with the arguments of `finetune`: `options` and `distribution` are objects, and `resume` is true
to continue from the newest resume point in `checkpoints`. Progress goes to stderr; the report goes to stdout as JSON,
with nothing else.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from baichuan_core.errors import BaichuanError
from baichuan_core.finetuning import FinetuningOptions, find_latest_resume_point, finetune
from baichuan_core.finetuning.distributed import Distribution
from baichuan_core.progress import Progress

INTERRUPTED_EXIT_CODE = 130  # the exit code that shells report after Ctrl-C


def main() -> int:
    """Run the task and return the exit code."""
    output = _reserve_stdout()
    task: dict[str, Any] = json.loads(sys.argv[1])
    checkpoints = Path(task["checkpoints"])
    try:
        options: dict[str, Any] = task.pop("options")
        for name in {"lora_target_modules", "report_to"} & options.keys():
            options[name] = tuple(options[name])  # JSON has no tuples
        task["distribution"] = Distribution(**task["distribution"])
        task["resume_from"] = find_latest_resume_point(checkpoints) if task.pop("resume") else None
        report = finetune(options=FinetuningOptions(**options), on_progress=_print_progress, **task)
    except (BaichuanError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    print(json.dumps(asdict(report)), file=output, flush=True)
    return 0


def _reserve_stdout() -> TextIO:
    """Reserve stdout for the report and return it; other output, such as that of DeepSpeed, then goes to stderr."""
    reserved = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return reserved


def _print_progress(progress: Progress) -> None:
    names = ("step", "steps", "loss", "eval_loss", "learning_rate", "eta_seconds")
    shown = " ".join(f"{name} {progress.metrics[name]:g}" for name in names if name in progress.metrics)
    print(f"{progress.fraction:4.0%} {progress.stage} {shown}".rstrip(), file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
