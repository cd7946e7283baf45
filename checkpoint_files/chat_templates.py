"""Finds the chat templates of a tokenizer and checks their Jinja syntax without running any template."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import FileError
from .field_rules import Rule, show
from .json_files import read_bytes, reject_byte_order_mark

DEFAULT_FILE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"  # transformers' folder for a tokenizer with several templates
FIELD = "chat_template"


class _GenerationTag(Extension):
    """The tag that transformers uses to mark answers."""

    tags = {"generation"}  # noqa: RUF012 - Jinja defines this attribute

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_chat_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> None:
    """Check the syntax of all templates that transformers would load for a tokenizer.

    Args:
        folder: Directory of the tokenizer.
        tokenizer_config: Content of its `tokenizer_config.json`.

    Raises:
        FileError: A template is not valid Jinja, or its file is not UTF-8 or begins with a byte order mark.
    """
    _TEMPLATES.check(FIELD, tokenizer_config.get(FIELD))
    for place, template in _find_templates(folder, tokenizer_config):
        _check_syntax(template, place)


def _is_template_or_templates(value: Any) -> bool:
    if isinstance(value, list):
        return all(
            isinstance(one, Mapping) and isinstance(one.get("name"), str) and isinstance(one.get("template"), str)
            for one in value
        )
    if isinstance(value, Mapping):
        return all(isinstance(one, str) for one in value.values())
    return isinstance(value, str)


_TEMPLATES = Rule(_is_template_or_templates, "a Jinja template, or a list of objects with name and template")


def _find_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the location of each template and its text; template files replace those in `tokenizer_config.json`."""
    files = [folder / DEFAULT_FILE, *sorted((folder / MORE_TEMPLATES).glob("*.jinja"))]
    if present := [file for file in files if file.exists()]:
        yield from ((str(file), _read_template(file)) for file in present)
        return
    place, value = f"{FIELD} in {folder / 'tokenizer_config.json'}", tokenizer_config.get(FIELD)
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        yield from ((f"{show(name)} of {place}", template) for name, template in value.items())
    elif isinstance(value, list):
        yield from ((f"{show(one['name'])} of {place}", one["template"]) for one in value)


def _read_template(file: Path) -> str:
    content = read_bytes(file)
    reject_byte_order_mark(file)  # the mark would be the first character of every prompt
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{file} is not UTF-8 (byte {error.start + 1}): save it as UTF-8") from None


def _check_syntax(template: str, place: str) -> None:
    # The same setup as in transformers. Unlike compiling, which folds constants, parsing evaluates nothing.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    try:
        tree = environment.parse(template)
    except TemplateSyntaxError as error:
        raise FileError(
            f"{place} is not a valid Jinja template (line {error.lineno}: {str(error.message)[:200]}): "
            "correct or remove it"
        ) from None
    except RecursionError:
        raise FileError(f"{place} is nested too deeply: simplify or remove it") from None
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        kind, known = ("filter", environment.filters) if isinstance(node, nodes.Filter) else ("test", environment.tests)
        if node.name not in known:
            raise FileError(
                f"{place} is not a valid Jinja template (line {node.lineno}: no {kind} named {show(node.name)}): "
                "correct or remove it"
            )
