"""Prints results to stdout (as JSON or as a table) and messages for people to stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 1000  # never truncate output that a program reads


def print_json(value: Any) -> None:
    """Print a result as JSON on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_json_line(value: Any) -> None:
    """Print one of several results as one line of JSON on stdout, and flush."""
    typer.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def print_json_list(items: Sequence[Any]) -> None:
    """Print several results as one JSON list object on stdout."""
    print_json({"object": "list", "data": list(items)})


def print_text(text: str) -> None:
    """Print a result as text on stdout, and flush."""
    typer.echo(text)
    sys.stdout.flush()


def print_message(message: str) -> None:
    """Print a message for the user on stderr, and flush."""
    typer.echo(message, err=True)
    sys.stderr.flush()


def create_console() -> Console:
    """Return a rich console on stdout that never truncates output to a pipe."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout; None is shown as '-'."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row))
    create_console().print(table)


def format_time(seconds: int | None) -> str | None:
    """Format a time in the user's time zone."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_size(count: int) -> str:
    """Format a number of bytes with a unit."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - the base of the units above
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
