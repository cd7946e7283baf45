"""Accepts the command line of Baichuan2's fine-tune.py in addition to the options of `baichuan submit finetune`."""

import json
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from jobs.specs.finetune import FinetuneSpec
from jobs.specs.published_finetuning import DEEPSPEED_PRESETS, FIELD_BY_PUBLISHED_NAME, TRANSLATED_OPTIONS

PUBLISHED_SCRIPT = "fine-tune.py"
META_KEY = "published"
# Published options whose names match ours, apart from underscores instead of hyphens, such as `--save_strategy epoch`
# and `--tf32 True`.
SAME_NAME_OPTIONS = (
    *(name for name in FinetuneSpec.model_fields if "_" in name and not name.endswith("_files")),
    "tf32",
    "seed",
    "epochs",
)
TEXT_OPTIONS = ("output_dir",)  # their values remain text even if they look like numbers
# Options passed on to click under our names, either because click requires them or because they name files to upload.
RENAMED_OPTIONS = {
    "model_name_or_path": "--model",
    "eval_data_path": "--validation-file",
    "validation_file": "--validation-file",
}
# Options that take one or more files and may be repeated.
DATA_OPTIONS = ("data_path", "training_file", "training-file")


class PublishedCommand(TyperCommand):
    """A command that also accepts the published options, some of which replace our required options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remove the published options, but pass `RENAMED_OPTIONS` and `DATA_OPTIONS` on to click under our names."""
        found, rest = split_published_options(args)
        ctx.meta[META_KEY] = found
        for published in found.keys() & RENAMED_OPTIONS.keys():
            rest += [RENAMED_OPTIONS[published], found[published]]
        data = [file for name in DATA_OPTIONS for file in found.get(name, ())]
        option = "--training-file" if len(data) == 1 else "--training-files"
        for file in data:
            rest += [option, file]
        return super().parse_args(ctx, rest)


def split_published_options(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Separate the published options, keyed by name, from other arguments; values of `DATA_OPTIONS` are lists.

    Raises:
        CommandError: An option has no value.
    """
    found: dict[str, Any] = {}
    rest: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument == PUBLISHED_SCRIPT:
            continue
        if not argument.startswith("--") or not _is_published_option(name, equals, remaining):
            rest.append(argument)
            continue
        if not equals:
            if not remaining:
                raise CommandError(f"--{name} needs a value", ExitCode.USAGE)
            value = remaining.pop(0)
        if name not in DATA_OPTIONS:
            found[name] = value
            continue
        found.setdefault(name, []).append(value)
        while remaining and not remaining[0].startswith("-"):
            found[name].append(remaining.pop(0))
    return found, rest


def _is_published_option(name: str, equals: str, remaining: list[str]) -> bool:
    if name in FIELD_BY_PUBLISHED_NAME or name in TRANSLATED_OPTIONS or name in DATA_OPTIONS:
        return True
    # Without a value, `--tf32` is our own flag.
    return name in SAME_NAME_OPTIONS and ("_" in name or bool(equals) or remaining[:1] in (["True"], ["False"]))


def add_published_fields(found: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Add the published options to the body of a spec; the spec class translates them.

    Raises:
        CommandError: The DeepSpeed configuration or the hostfile cannot be read.
    """
    if not found:
        return body
    passed = {*RENAMED_OPTIONS, *DATA_OPTIONS}  # passed to click under our names
    fields: dict[str, Any] = {name: _parse_value(name, value) for name, value in found.items() if name not in passed}
    if found.get("deepspeed"):
        preset = found["deepspeed"] in DEEPSPEED_PRESETS
        fields["deepspeed"] = found["deepspeed"] if preset else _read_deepspeed_config(Path(found["deepspeed"]))
    if found.get("hostfile"):
        fields["hostfile"] = _read_hostfile(Path(found["hostfile"]))
    if "data_path" in found and not {"method", "preset"} & body.keys() and "use_lora" not in fields:
        fields["use_lora"] = "False"
    return body | fields


def _parse_value(name: str, value: str) -> str | int | float | bool:
    """Convert text to a number or boolean if possible, because the service reads JSON strictly."""
    if value in ("True", "False"):
        return value == "True"
    for kind in (int, float):
        try:
            return value if name in TEXT_OPTIONS else kind(value)
        except ValueError:
            continue
    return value


def _read_hostfile(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read the hostfile {file}: {error}", ExitCode.USAGE) from error


def _read_deepspeed_config(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(
            f"cannot read the DeepSpeed configuration {file}: {error.strerror}", ExitCode.USAGE
        ) from error
    except ValueError as error:
        raise CommandError(f"the DeepSpeed configuration {file} is not JSON: {error}", ExitCode.USAGE) from error
