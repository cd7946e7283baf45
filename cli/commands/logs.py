"""`baichuan logs`: print the output of a job."""

import sys
import time
from typing import Annotated

import typer

from baichuan_client.calls import job_path
from cli.client import Client
from cli.job_view import is_final
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import print_json, print_json_line

POLL_INTERVAL_SECONDS = 0.5


def logs(
    job: Annotated[str, typer.Argument(help="Id of a job.")],
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the job has ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the output of a job. With --json, print its `log` events; with --json and --follow, one event per line."""
    with connect(url, key) as client:
        if as_json:
            _print_events(client, job, follow=follow)
        else:
            _print_text(client, job, follow=follow)


def _print_text(client: Client, job: str, *, follow: bool) -> None:
    after = 0
    while True:
        # Check the state before reading the lines, so that the last ones are not missed.
        final = not follow or is_final(client.get(job_path(job)))
        response = client.request("GET", job_path(job, "logs"), params={"after": after})
        after = int(response.headers["X-Last-Sequence"])
        typer.echo(response.text, nl=False)
        sys.stdout.flush()
        if final:
            return
        time.sleep(POLL_INTERVAL_SECONDS)


def _print_events(client: Client, job: str, *, follow: bool) -> None:
    path, query = job_path(job, "events"), {"type": "log"}
    if not follow:
        print_json({"object": "list", "data": list(client.list_items(path, query))})
        return
    after: int | None = None
    while True:
        final = is_final(client.get(job_path(job)))
        for event in client.list_items(path, {**query, "after": after}):
            print_json_line(event)
            after = event["sequence"]
        if final:
            return
        time.sleep(POLL_INTERVAL_SECONDS)
