"""Commands that run or prepare the service: up, worker, dispatcher, init.

The commands import the job domain only when they run, so that client commands start quickly and do not need the
service's packages.
"""

import os
import sys
from typing import Annotated

import typer

from cli.extras import require_extras
from cli.options import JsonOption
from cli.output import print_json, print_message, print_text

PASS_THROUGH_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def up(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            help="Command, after `--`, to run once the service is ready; when it ends, `up` stops the service and "
            "exits with the command's exit code."
        ),
    ] = None,
    host: Annotated[str, typer.Option(envvar="BAICHUAN_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            envvar="BAICHUAN_PORT", min=1, max=65_535, help="Port to listen on; by default 8000 or the next free one."
        ),
    ] = None,
    worker: Annotated[bool, typer.Option(help="Start a worker on this machine.")] = True,
) -> None:
    """Start the whole service: Redis (unless REDIS_URL is set), API, dispatcher and one worker. Ctrl-C stops it.

    BAICHUAN_API_KEY, if set, becomes the administrator's key.
    """
    require_extras("baichuan up", "api", *(["engine"] if worker else []))
    from cli.supervision.up import UpOptions  # noqa: PLC0415 - see the module's docstring
    from cli.supervision.up import up as serve  # noqa: PLC0415

    raise typer.Exit(serve(UpOptions(host, port, worker, command or ())))


def worker(context: typer.Context) -> None:
    """Run one worker, configured by BAICHUAN_WORKER_* variables."""
    require_extras("baichuan worker", "engine")
    _exec_module("workers", context.args)


def dispatcher(context: typer.Context) -> None:
    """Run one dispatcher; any number of others can run as standbys."""
    require_extras("baichuan dispatcher", "service")
    _exec_module("jobs.dispatcher", context.args)


def init(*, as_json: JsonOption = False) -> None:
    """Migrate the database and create the first API key: BAICHUAN_API_KEY if set, else a new one, which is printed."""
    require_extras("baichuan init", "service")
    from cli.supervision.key import initialize_deployment  # noqa: PLC0415 - see the module's docstring

    outcome = initialize_deployment(os.environ.get("BAICHUAN_API_KEY") or None)
    if as_json:
        print_json({"api_key": outcome.shown, "created": outcome.created})
        return
    print_message("the database is at the latest revision" + ("; a key was created" if outcome.created else ""))
    if outcome.shown:
        print_text(outcome.shown)


def _exec_module(module: str, arguments: list[str]) -> None:
    """Replace this process with a service process, so that signals reach that process directly."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - our own program
