"""`baichuan watch` and `baichuan wait`: follow jobs until they have ended."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import httpx
import typer
from rich.live import Live

from baichuan_client.calls import job_path
from cli.client import Client
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.job_view import build_job_panel, format_job_line, is_final
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import create_console, print_json_line, print_message, print_text

POLL_INTERVAL_SECONDS = 0.3
MAX_OUTAGE_SECONDS = 60.0


def watch(
    jobs: Annotated[list[str], typer.Argument(help="One or more job ids.")],
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Watch jobs until all have ended; exit 1 unless all succeeded. With --json, print one line per change."""
    with connect(url, key) as client:
        follow(client, list(dict.fromkeys(jobs)), as_json=as_json)


def wait(
    jobs: Annotated[list[str] | None, typer.Argument(help="One or more job ids.")] = None,
    label: Annotated[str | None, typer.Option(help="Wait for all jobs with this label, as KEY=VALUE.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Wait for jobs to end, printing each one as it ends; exit 1 unless all succeeded."""
    if bool(jobs) == bool(label):
        raise CommandError("pass either job ids or --label", ExitCode.USAGE)
    with connect(url, key) as client:
        ids = list(dict.fromkeys(jobs)) if jobs else _find_labelled_jobs(client, label or "")
        failed = 0
        for job in _yield_changes(client, ids, {}):
            if is_final(job):
                print_json_line(job) if as_json else print_text(format_job_line(job))
                failed += job["state"] != "succeeded"
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _find_labelled_jobs(client: Client, label: str) -> list[str]:
    if "=" not in label:
        raise CommandError(f"--label is {label!r}; write KEY=VALUE", ExitCode.USAGE)
    found = [job["id"] for job in client.list_items("/v1/jobs", {"label": label.replace("=", ":", 1)})]
    if not found:
        raise CommandError(f"no job has the label {label}; see `baichuan list`", ExitCode.USAGE)
    return found


def follow(client: Client, ids: Sequence[str], *, as_json: bool) -> None:
    """Show jobs until all have ended.

    Raises:
        typer.Exit: With code 1, if a job failed or was cancelled.
    """
    latest: dict[str, Any] = {}
    try:
        _show_changes(client, ids, latest, as_json=as_json)
    except KeyboardInterrupt:
        print_message(f"stopped watching; the jobs continue; to watch again: `baichuan watch {' '.join(ids)}`")
        raise
    if any(job["state"] != "succeeded" for job in latest.values()):
        raise typer.Exit(ExitCode.FAILED)


def _show_changes(client: Client, ids: Sequence[str], latest: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        for job in _yield_changes(client, ids, latest):
            print_json_line(job)
    elif sys.stdout.isatty():
        _show_live(client, ids, latest)
    else:
        _show_lines(client, ids, latest)


def _show_live(client: Client, ids: Sequence[str], latest: dict[str, Any]) -> None:
    with Live(console=create_console(), refresh_per_second=8) as live:
        for _ in _yield_changes(client, ids, latest):
            live.update(build_job_panel([latest[job] for job in ids if job in latest]))


def _show_lines(client: Client, ids: Sequence[str], latest: dict[str, Any]) -> None:
    """Print one line per change when stdout is not a terminal."""
    shown: dict[str, str] = {}
    for job in _yield_changes(client, ids, latest):
        line = format_job_line(job)
        if shown.get(job["id"]) != line:
            print_text(line)
            shown[job["id"]] = line


def _yield_changes(client: Client, ids: Sequence[str], latest: dict[str, Any]) -> Iterator[Any]:
    """Yield every new version of every job until all have ended; tolerate outages of up to a minute."""
    open_ids, tags = list(ids), dict.fromkeys(ids, "")
    silent_since: float | None = None
    while open_ids:
        try:
            for job_id in tuple(open_ids):
                response = client.request("GET", job_path(job_id), headers={"If-None-Match": tags[job_id]})
                if response.status_code == httpx.codes.NOT_MODIFIED:
                    continue
                tags[job_id] = response.headers.get("ETag", "")
                latest[job_id] = response.json()
                yield latest[job_id]
                if is_final(latest[job_id]):
                    open_ids.remove(job_id)
            silent_since = None
        except CommandError as error:
            if error.code is not ExitCode.UNREACHABLE or not latest:
                raise
            silent_since = _report_outage(error, silent_since)
        if open_ids:
            time.sleep(POLL_INTERVAL_SECONDS)


def _report_outage(error: CommandError, since: float | None) -> float:
    now = time.monotonic()
    if since is None:
        print_message(f"{error}; retrying for {MAX_OUTAGE_SECONDS:.0f} s; the job continues in the meantime")
        return now
    if now - since > MAX_OUTAGE_SECONDS:
        raise error
    return since
