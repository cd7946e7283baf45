"""`baichuan dataset`: inspect training data before fine-tuning."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from baichuan_client.calls import job_path
from cli.client import Client
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.job_view import format_error, format_job_line, is_final
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import create_console, print_json, print_message, print_table, print_text
from cli.uploads import upload_if_local

app = typer.Typer(help="Inspect training data.", no_args_is_help=True)

WAIT_SECONDS = 20  # shorter than the client's timeout
POLL_INTERVAL_SECONDS = 1.0
SPACE, NEWLINE = "\u2581", "<0x0A>"
BAR_WIDTH = 40


@app.callback()
def dataset() -> None:
    """Inspect training data."""


@app.command("preview")
def preview(
    file: Annotated[str, typer.Argument(help="A local file, which is uploaded, or the id of an uploaded file.")],
    model: Annotated[str, typer.Option(help="The model to fine-tune.")],
    max_length: Annotated[int, typer.Option(min=8, help="Truncate examples to this many tokens.")] = 512,
    examples: Annotated[int, typer.Option(min=1, max=10, help="Number of examples to show.")] = 3,
    max_examples: Annotated[int, typer.Option(min=1, help="Read at most this many examples.")] = 10_000,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show training data as a fine-tuning run would read it; the text to train on is marked."""
    with connect(url, key) as client:
        body = {
            "model": model,
            "training_file": upload_if_local(client, file, "fine-tune"),
            "max_length": max_length,
            "examples": examples,
            "max_examples": max_examples,
        }
        job = client.post("/v1/datasets/preview", body, {"Prefer": f"wait={WAIT_SECONDS}"})
        job = _wait_for_end(client, job)
    if job["state"] != "succeeded":
        raise CommandError(format_error(job) if job["error"] else format_job_line(job), ExitCode.FAILED)
    if as_json:
        print_json(job["result"])
    else:
        _show_preview(job["result"])


def _wait_for_end(client: Client, job: Any) -> Any:
    said = ""
    while not is_final(job):
        if (line := format_job_line(job)) != said:
            print_message(line)
            said = line
        time.sleep(POLL_INTERVAL_SECONDS)
        job = client.get(job_path(job["id"]))
    return job


def _show_preview(result: Any) -> None:
    for number, example in enumerate(result["examples"], start=1):
        create_console().print(Text(f"example {number}, {example['length']} tokens", "bold"))
        create_console().print(Text.assemble(*_style_trained_tokens(example)))
    most = max(row["examples"] for row in result["lengths"])
    rows = [
        (
            f"{row['shortest']} to {row['longest'] or ''}".strip(),
            row["examples"],
            "█" * _compute_bar_length(row["examples"], most),
        )
        for row in result["lengths"]
    ]
    print_table(("TOKENS", "EXAMPLES", ""), rows)
    whole = "" if result["complete"] else " (only the beginning of the file was read)"
    print_text(
        f"format {result['data_format']}, chat format {result['chat_format'] or 'none'}: {result['count']} examples,"
        f" {result['tokens']} tokens, {result['trained_tokens']} of them trained on;"
        f" {result['truncated_examples']} truncated, {result['dropped_examples']} dropped{whole}"
    )


def _style_trained_tokens(example: Any) -> Iterator[tuple[str, str]]:
    """Yield the text of an example; brackets, and a color in a terminal, mark the trained tokens."""
    is_trained = False
    for token in example["tokens"]:
        if token["trained"] != is_trained:
            is_trained = token["trained"]
            yield ("[[" if is_trained else "]]"), "green"
        yield token["piece"].replace(SPACE, " ").replace(NEWLINE, "\n"), "green" if is_trained else ""
    if is_trained:
        yield "]]", "green"


def _compute_bar_length(count: int, most: int) -> int:
    return max(1, round(BAR_WIDTH * count / most))
