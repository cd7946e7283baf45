"""The `baichuan` command."""

import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from baichuan_client import InvalidInputError
from cli.commands import (
    artifacts,
    chat,
    dataset,
    doctor,
    estimate,
    files,
    finetune,
    jobs,
    keys,
    logs,
    models,
    processes,
    resume_points,
    submit,
    watch,
    workers,
)
from cli.errors import CommandError
from cli.exit_codes import EXIT_CODE_HELP, ExitCode
from cli.output import print_message, print_text
from cli.published_arguments import PublishedCommand

app = typer.Typer(
    name="baichuan",
    epilog=EXIT_CODE_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_text(version("baichuan-jobs"))
        raise typer.Exit


@app.callback()
def baichuan(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run jobs for the Baichuan model family: quantize, convert, fine-tune and generate."""


SERVICE_PANEL = "Run the service"
app.command(rich_help_panel=SERVICE_PANEL)(processes.up)
app.command(rich_help_panel=SERVICE_PANEL, context_settings=processes.PASS_THROUGH_SETTINGS)(processes.worker)
app.command(rich_help_panel=SERVICE_PANEL, context_settings=processes.PASS_THROUGH_SETTINGS)(processes.dispatcher)
app.command(rich_help_panel=SERVICE_PANEL)(processes.init)
app.command(rich_help_panel=SERVICE_PANEL)(doctor.doctor)
app.command(rich_help_panel=SERVICE_PANEL)(estimate.estimate)

STANDALONE_PANEL = "Without the service"
app.command("finetune", cls=PublishedCommand, rich_help_panel=STANDALONE_PANEL, no_args_is_help=True)(finetune.finetune)

JOBS_PANEL = "Jobs"
app.add_typer(submit.app, name="submit", rich_help_panel=JOBS_PANEL)
app.command("list", rich_help_panel=JOBS_PANEL)(jobs.list_jobs)
app.command("show", rich_help_panel=JOBS_PANEL)(jobs.show_job)
app.command(rich_help_panel=JOBS_PANEL)(watch.watch)
app.command(rich_help_panel=JOBS_PANEL)(watch.wait)
app.command(rich_help_panel=JOBS_PANEL)(logs.logs)
app.add_typer(resume_points.app, name="resume-points", rich_help_panel=JOBS_PANEL)
app.command(rich_help_panel=JOBS_PANEL)(jobs.cancel)
app.command(rich_help_panel=JOBS_PANEL)(jobs.pause)
app.command(rich_help_panel=JOBS_PANEL)(jobs.resume)
app.command(rich_help_panel=JOBS_PANEL)(jobs.retry)
app.command(rich_help_panel=JOBS_PANEL)(jobs.delete)
app.command(rich_help_panel=JOBS_PANEL)(artifacts.artifacts)
app.command(rich_help_panel=JOBS_PANEL)(chat.chat)

RESOURCES_PANEL = "What jobs use"
app.add_typer(models.app, name="models", rich_help_panel=RESOURCES_PANEL)
app.add_typer(dataset.app, name="dataset", rich_help_panel=RESOURCES_PANEL)
app.add_typer(files.app, name="files", rich_help_panel=RESOURCES_PANEL)
app.add_typer(keys.app, name="keys", rich_help_panel=RESOURCES_PANEL)
app.add_typer(workers.app, name="workers", rich_help_panel=RESOURCES_PANEL)


def run() -> None:
    """Run the command given by this process's arguments."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may use GBK, which lacks most of Unicode
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except CommandError as error:
        print_message(f"error: {error}")
        sys.exit(error.code)
    except (InvalidInputError, UnicodeEncodeError) as error:
        print_message(f"error: {_find_undecodable_argument() or error}")
        sys.exit(ExitCode.USAGE)


def _find_undecodable_argument() -> str | None:
    """Describe an argument whose bytes are not UTF-8, which Python represents as surrogates; None if there is none."""
    for argument in sys.argv[1:]:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            return (
                f"the argument {argument!a} is not valid UTF-8; set the terminal to UTF-8, or write the job into a "
                "UTF-8 file and use `baichuan submit --file`"
            )
    return None
