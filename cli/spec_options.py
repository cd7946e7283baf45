"""Creates a command-line option for every field of every job spec, based on the pydantic models."""

import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import typer
from pydantic.fields import FieldInfo

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from jobs.specs import AnySpec, JobSpec

SCALAR_TYPES = (bool, int, float, str)
FILE_SUFFIX = "_file"
FILES_SUFFIX = "_files"


def get_spec_classes() -> dict[str, type[JobSpec]]:
    """Return the spec classes, keyed by job kind."""
    classes = get_args(get_args(AnySpec)[0])
    return {get_args(cls.model_fields["kind"].annotation)[0]: cls for cls in classes}


@dataclass(frozen=True, slots=True)
class SpecOption:
    """A field of a spec as a command-line option.

    Attributes:
        field: The field's name in the spec.
        name: The option's name in Python; an option for a list has a singular name and may be repeated.
        annotation: The option's type, without None.
        form: How the option's text is converted to the field's value.
    """

    field: str
    name: str
    annotation: Any
    form: Literal["scalar", "list", "labels", "file", "weighted files", "json"]
    info: FieldInfo

    def build_parameter(self) -> inspect.Parameter:
        """Return the parameter from which typer builds the option; an optional parameter defaults to None."""
        required = self.info.is_required()
        word = self.name.replace("_", "-")
        flag = f"--{word}/--no-{word}" if self.annotation is bool else f"--{word}"
        option = typer.Option(flag, help=self._format_help(), **self._find_bounds())
        kind: Any = self.annotation if required else self.annotation | None
        annotation = Annotated[kind, option]
        default = inspect.Parameter.empty if required else None
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def _format_help(self) -> str:
        shown = {
            "list": "May be repeated.",
            "labels": "KEY=VALUE; may be repeated.",
            "file": "A local file, which is uploaded, or the id of an uploaded file.",
            "weighted files": "FILE=WEIGHT, or FILE alone; may be repeated.",
            "json": "A local file that contains the value as JSON.",
        }.get(self.form, "")
        default = self.info.default
        by_default = f"Default: {json.dumps(default)}." if isinstance(default, SCALAR_TYPES) else ""
        description = f"{self.info.description.rstrip('.')}." if self.info.description else ""
        return " ".join(part for part in (description, shown, by_default) if part)

    def _find_bounds(self) -> dict[str, Any]:
        if self.annotation not in (int, float):
            return {}
        limits: list[Any] = self.info.metadata
        lowest = [limit.ge for limit in limits if isinstance(limit, annotated_types.Ge)]
        highest = [limit.le for limit in limits if isinstance(limit, annotated_types.Le)]
        return {"min": lowest[0] if lowest else None, "max": highest[0] if highest else None}


def create_options(spec: type[JobSpec]) -> list[SpecOption]:
    """Return options for the fields of a spec, required ones first."""
    found = [_create_option(name, info) for name, info in spec.model_fields.items() if name != "kind"]
    return sorted(found, key=lambda option: not option.info.is_required())


def read_values(options: list[SpecOption], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec fields that were given; files remain paths or ids.

    Raises:
        CommandError: a label or a JSON file is malformed.
    """
    return {
        option.field: _read_value(option, given[option.name])
        for option in options
        if given.get(option.name) not in (None, [])
    }


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Return the fields given as `field=value`; a value that is not JSON is treated as text.

    Raises:
        CommandError: an assignment has no '='.
    """
    return {
        name: _parse_json_or_text(value) for name, value in (_split_assignment(item, "--set") for item in assignments)
    }


def _create_option(name: str, info: FieldInfo) -> SpecOption:
    kind = _strip_annotation(info.annotation)
    if name.endswith(FILE_SUFFIX):
        return SpecOption(name, name, str, "file", info)
    if kind in SCALAR_TYPES or get_origin(kind) is Literal:
        return SpecOption(name, name, kind, "scalar", info)
    if name.endswith(FILES_SUFFIX):
        return SpecOption(name, name, list[str], "weighted files", info)
    if get_origin(kind) is dict:
        return SpecOption(name, name.removesuffix("s"), list[str], "labels", info)
    if get_origin(kind) is list and _strip_annotation(get_args(kind)[0]) is str:
        return SpecOption(name, name.removesuffix("s"), list[str], "list", info)
    return SpecOption(name, name, Path, "json", info)


def _strip_annotation(annotation: Any) -> Any:
    """Return the type without constraints and without None."""
    if get_origin(annotation) is Annotated:
        return _strip_annotation(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _strip_annotation(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _read_value(option: SpecOption, given: Any) -> Any:
    match option.form:
        case "labels":
            return dict(_split_assignment(item, "--label") for item in given)
        case "json":
            return read_json(given)
        case "weighted files":
            return [_split_weight(item) for item in given]
        case "scalar" | "list" | "file":
            return given


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        CommandError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", ExitCode.USAGE) from error
    except ValueError as error:
        raise CommandError(f"{path} is not valid JSON: {error}", ExitCode.USAGE) from error


def _split_assignment(assignment: str, option: str) -> tuple[str, str]:
    name, sign, value = assignment.partition("=")
    if not name or not sign:
        raise CommandError(f"{option} is {assignment!r}; write NAME=VALUE", ExitCode.USAGE)
    return name, value


def _split_weight(item: str) -> dict[str, Any]:
    """Split FILE=WEIGHT; if no number follows the last '=', the whole argument is the file's name or id."""
    file, sign, weight = item.rpartition("=")
    try:
        return {"file": file, "weight": float(weight)} if sign else {"file": item}
    except ValueError:
        return {"file": item}


def _parse_json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
