"""`baichuan finetune`: fine-tune on one or more machines, without the service."""

import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.extras import require_extras
from cli.local_finetuning import build_distribution_fields, build_finetune_arguments
from cli.published_arguments import META_KEY, add_published_fields
from cli.spec_options import SpecOption, create_options, read_values
from jobs.specs import FinetuneSpec, JobSpec

Strategy = Literal["auto", "single", "ddp", "fsdp2", "zero2", "zero3", "zero3-offload"]
OUTPUT_FIELD = "output_model"
LOCAL_HELP = {
    "model": "Directory of the base checkpoint.",
    "training_file": "Examples in any format that docs/finetuning.md describes; accepts several files.",
    "training_files": "FILE=WEIGHT, or FILE alone; may be repeated.",
    "validation_file": "Examples to evaluate on.",
    OUTPUT_FIELD: "New directory for the result.",
}
# Options in addition to those of the spec, as tuples of name, annotation and default.
LOCAL_OPTIONS: tuple[tuple[str, Any, Any], ...] = (
    ("strategy", Annotated[Strategy | None, typer.Option(help="Distribution strategy. Default: auto.")], None),
    (
        "nproc",
        Annotated[
            int | None, typer.Option(min=1, help="Number of processes on this machine. Default: one per visible GPU.")
        ],
        None,
    ),
    (
        "nodes",
        Annotated[int | None, typer.Option(min=1, help="Number of machines; run the same command on each.")],
        None,
    ),
    ("node_rank", Annotated[int | None, typer.Option(min=0, help="Index of this machine, starting at 0.")], None),
    ("master_addr", Annotated[str | None, typer.Option(help="Address of machine 0.")], None),
    ("master_port", Annotated[int | None, typer.Option(min=1, max=65_535, help="Port on machine 0.")], None),
    (
        "checkpoints",
        Annotated[Path | None, typer.Option(help="Directory for resume points. Default: OUTPUT-checkpoints.")],
        None,
    ),
    ("records", Annotated[Path | None, typer.Option(help="Directory for the metrics and the plot.")], None),
    ("resume", Annotated[bool, typer.Option("--resume", help="Continue from the newest resume point.")], False),
)


def _list_options() -> list[SpecOption]:
    # Leave out the fields that only jobs use, and two that are handled separately.
    without = (JobSpec.model_fields.keys() - {"model"}) | {"strategy", "deepspeed"}
    return [option for option in create_options(FinetuneSpec) if option.field not in without]


def _create_command() -> Callable[..., None]:
    """Return the command; typer reads its options from the signature that is set here."""
    options = _list_options()

    def finetune_command(**given: Any) -> None:
        found: dict[str, Any] = dict(given["context"].meta.get(META_KEY, {}))
        deepspeed, hostfile = found.pop("deepspeed", None), found.pop("hostfile", None)
        body = add_published_fields(found, {"kind": "finetune", **read_values(options, given)})
        names = ("strategy", "nproc", "nodes", "node_rank", "master_addr", "master_port")
        task = build_finetune_arguments(body)
        task["distribution"] = build_distribution_fields(
            deepspeed=deepspeed, hostfile=hostfile, **{name: given[name] for name in names}
        )
        task["checkpoints"] = str(given["checkpoints"] or f"{task['output'].rstrip('/')}-checkpoints")
        task["records"] = None if given["records"] is None else str(given["records"])
        task["resume"] = given["resume"]
        _exec_training(task)

    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters += [_create_local_parameter(option) for option in options]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in LOCAL_OPTIONS
    ]
    finetune_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    finetune_command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    finetune_command.__doc__ = (
        "Fine-tune without the service; also accepts the options of Baichuan 2's fine-tune.py, --deepspeed"
        " (zero2, zero3, zero3-offload or a file) and --hostfile."
    )
    return finetune_command


def _create_local_parameter(option: SpecOption) -> inspect.Parameter:
    """Return the parameter for an option, with a help text that describes paths instead of ids."""
    parameter = option.build_parameter()
    if option.field not in LOCAL_HELP:
        return parameter
    kind: Any = option.annotation if option.info.is_required() else option.annotation | None
    shown = typer.Option(help=LOCAL_HELP[option.field])
    annotation = Annotated[kind, shown]
    return parameter.replace(annotation=annotation)


def _exec_training(task: dict[str, Any]) -> None:
    """Replace this process with the training process, so that signals reach that process directly."""
    require_extras("baichuan finetune", "engine")
    if not Path(task["checkpoint"]).is_dir():
        raise CommandError(
            f"--model {task['checkpoint']} is not a directory; pass a checkpoint directory", ExitCode.USAGE
        )
    command = [sys.executable, "-P", "-m", "baichuan_core.finetuning", json.dumps(task)]
    os.execv(sys.executable, command)  # noqa: S606 - our own program


finetune = _create_command()
