"""What goes where: results to stdout (as JSON or as a table), everything meant for people to stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 1000  # nothing is cut where a program reads


def emit(value: Any) -> None:
    """A result as JSON on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def emit_line(value: Any) -> None:
    """One of several results as one line of JSON on stdout, at once."""
    typer.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def emit_list(items: Sequence[Any]) -> None:
    """Several results as one JSON list object on stdout."""
    emit({"object": "list", "data": list(items)})


def show(text: str) -> None:
    """A result as text on stdout, at once."""
    typer.echo(text)
    sys.stdout.flush()


def say(message: str) -> None:
    """Something for the person at the terminal, on stderr, at once."""
    typer.echo(message, err=True)
    sys.stderr.flush()


def console() -> Console:
    """A rich console on stdout that never cuts what goes into a pipe."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout; None is shown as '-'."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row))
    console().print(table)


def moment(seconds: int | None) -> str | None:
    """A time as the user's clock shows it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """A number of bytes in words."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - the base of the units above
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
