"""Translates the options of `baichuan finetune` into a training run, distributed over processes and machines."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.hostfile import find_own_rank, read_hostfile
from jobs.specs.finetune import FinetuneSpec
from jobs.specs.job_spec import JobSpec
from jobs.specs.published_finetuning import translate_published_names

STRATEGIES = ("auto", "single", "ddp", "fsdp2", "zero2", "zero3", "zero3-offload")
ZERO_PRESETS = ("zero2", "zero3", "zero3-offload")
DEFAULT_MASTER_PORT = 29_500  # default port of torchrun and DeepSpeed
PLACEHOLDER_FILE_ID = f"file-{'0' * 26}"
# Fields that are paths here but ids in a job, with placeholders that pass the job's validation.
PATH_PLACEHOLDERS = {
    "model": "model",
    "output_model": "output",
    "training_file": PLACEHOLDER_FILE_ID,
    "validation_file": PLACEHOLDER_FILE_ID,
}
EXCLUDED_FIELDS = {
    *JobSpec.model_fields,
    *PATH_PLACEHOLDERS,
    "kind",
    "preset",
    "training_files",
    "strategy",
    "deepspeed",
}
LIBRARY_OPTION_NAMES = {"scheduler": "lr_scheduler"}  # the library's names for spec fields, if different


def build_finetune_arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """Convert spec fields, given under our names or the published ones, to arguments for `baichuan_core.finetune`.

    Raises:
        CommandError: A field is invalid, or the output is missing.
    """
    try:
        fields = translate_published_names(body)
        paths = {name: str(fields[name]) for name in PATH_PLACEHOLDERS if fields.get(name) is not None}
        data = _collect_weights(fields.pop("training_files", None))
        if data:
            fields["training_files"] = [{"file": f"file-{n:026}", "weight": data[file]} for n, file in enumerate(data)]
        spec = FinetuneSpec.model_validate({**fields, **{name: PATH_PLACEHOLDERS[name] for name in paths}})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}".strip() for one in error.errors())
        raise CommandError(problems, ExitCode.USAGE) from error
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    if "output_model" not in paths:
        raise CommandError("--output-model is missing; pass a new directory for the result", ExitCode.USAGE)
    values = spec.model_dump(exclude=EXCLUDED_FIELDS)
    options = {LIBRARY_OPTION_NAMES.get(name, name): value for name, value in values.items()}
    options["dtype"] = None if spec.dtype == "auto" else spec.dtype
    return {
        "checkpoint": paths["model"],
        "training_data": data or paths["training_file"],
        "validation_data": paths.get("validation_file"),
        "output": paths["output_model"],
        "options": options,
    }


def _collect_weights(files: Sequence[Mapping[str, Any]] | None) -> dict[str, float]:
    """Return the weights of training files, keyed by path.

    Raises:
        ValueError: A file is given twice.
    """
    weights: dict[str, float] = {}
    for each in files or ():
        if each["file"] in weights:
            raise ValueError(f"{each['file']} is given twice; pass it once, with a higher weight: {each['file']}=2")
        weights[each["file"]] = each.get("weight", 1.0)
    return weights


def build_distribution_fields(
    *,
    strategy: str | None,
    deepspeed: str | None,
    hostfile: str | None,
    nproc: int | None,
    nodes: int | None,
    node_rank: int | None,
    master_addr: str | None,
    master_port: int | None,
) -> dict[str, Any]:
    """Return the fields of `baichuan_core.finetuning.distributed.Distribution`.

    Raises:
        CommandError: Options contradict each other or the contents of a file.
    """
    found: dict[str, Any] = {"strategy": strategy or "auto"}
    if deepspeed:
        if strategy is not None:
            raise CommandError("--deepspeed and --strategy are both given; leave one out", ExitCode.USAGE)
        found |= (
            {"strategy": deepspeed}
            if deepspeed in ZERO_PRESETS
            else {"deepspeed": _read_deepspeed_config(Path(deepspeed))}
        )
    if hostfile:
        path = Path(hostfile)
        hosts = read_hostfile(path)
        for name, given, written in (("--nproc", nproc, hosts[0].slots), ("--nodes", nodes, len(hosts))):
            if given not in (None, written):
                raise CommandError(f"{name} is {given}, but {path} specifies {written}; omit {name}", ExitCode.USAGE)
        nproc, nodes = hosts[0].slots, len(hosts)
        master_addr = master_addr or hosts[0].name
        if node_rank is None and nodes > 1:
            node_rank = find_own_rank(hosts, path)
    nodes = nodes or 1
    if nodes > 1:
        if node_rank is None or master_addr is None:
            missing = "--node-rank" if node_rank is None else "--master-addr"
            raise CommandError(f"{missing} is required with {nodes} machines; pass it on each of them", ExitCode.USAGE)
        found |= {"nodes": nodes, "node_rank": node_rank, "master_addr": master_addr}
        master_port = master_port or DEFAULT_MASTER_PORT
    return found | {"processes": nproc, "master_port": master_port}


def _read_deepspeed_config(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        presets = ", ".join(ZERO_PRESETS)
        raise CommandError(
            f"cannot read the DeepSpeed configuration {file}: {error.strerror}; pass a file or one of {presets}",
            ExitCode.USAGE,
        ) from error
    except ValueError as error:
        raise CommandError(f"the DeepSpeed configuration {file} is not JSON: {error}", ExitCode.USAGE) from error
