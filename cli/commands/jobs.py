"""Commands to list, show, cancel, pause, resume, retry and delete jobs."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer
from rich.json import JSON

from baichuan_client.calls import job_path
from cli.client import Client
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.job_view import format_job_line
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import create_console, format_time, print_json, print_json_list, print_message, print_table, print_text
from jobs.specs import KINDS
from jobs.state import JobState

JobIds = Annotated[list[str], typer.Argument(help="One or more job ids.")]
JobId = Annotated[str, typer.Argument(help="Id of a job.")]
COLUMNS = ("ID", "KIND", "STATE", "PROGRESS", "MODEL", "CREATED", "ERROR")


def list_jobs(
    state: Annotated[JobState | None, typer.Option(help="List only jobs in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help=f"List only jobs of this kind: {', '.join(KINDS)}.")] = None,
    label: Annotated[str | None, typer.Option(help="List only jobs with this label, as KEY=VALUE.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs to list, newest first.")] = 20,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="List all jobs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    if kind is not None and kind not in KINDS:
        raise CommandError(f"--kind is {kind!r}; use one of {', '.join(KINDS)}", ExitCode.USAGE)
    wanted = {"state": state, "kind": kind, "label": label.replace("=", ":", 1) if label else None}
    with connect(url, key) as client:
        found = list(client.list_items("/v1/jobs", wanted, most=None if everything else limit))
    if as_json:
        print_json_list(found)
    elif found:
        print_table(COLUMNS, [_format_row(job) for job in found])
    else:
        print_message("no jobs")


def show_job(job: JobId, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """Show all details of one job, including its attempts."""
    with connect(url, key) as client:
        found = client.get(job_path(job))
        found["attempt_list"] = list(client.list_items(job_path(job, "attempts")))
    if as_json:
        print_json(found)
    else:
        print_text(format_job_line(found))
        create_console().print(JSON.from_data(found, ensure_ascii=False))


def cancel(jobs: JobIds, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """Cancel jobs; waiting ones end immediately, running ones are stopped by their worker."""
    _apply_to_each(jobs, url, key, "cancel", as_json=as_json)


def retry(jobs: JobIds, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """Queue failed or cancelled jobs again."""
    _apply_to_each(jobs, url, key, "retry", as_json=as_json)


def pause(jobs: JobIds, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """Pause fine-tunes until they are resumed; running ones save a resume point first."""
    _apply_to_each(jobs, url, key, "pause", as_json=as_json)


def resume(jobs: JobIds, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """Resume paused jobs."""
    _apply_to_each(jobs, url, key, "resume", as_json=as_json)


def delete(jobs: JobIds, url: UrlOption = None, key: KeyOption = None) -> None:
    """Delete finished jobs with their logs, artifacts and models."""
    with connect(url, key) as client:
        deleted, refused = _try_each(jobs, lambda job: _delete_job(client, job))
    for job in deleted:
        print_message(f"deleted {job}")
    _report_refusals(refused)


def _apply_to_each(
    jobs: list[str],
    url: str | None,
    key: str | None,
    action: Literal["cancel", "pause", "resume", "retry"],
    *,
    as_json: bool,
) -> None:
    """Apply an action to every job; if one is rejected, continue with the others."""
    with connect(url, key) as client:
        answers, refused = _try_each(jobs, lambda job: _post_action(client, job, action))
    if as_json:
        print_json_list(answers)
    else:
        for answer in answers:
            print_text(format_job_line(answer))
    _report_refusals(refused)


def _report_refusals(refused: list[tuple[str, CommandError]]) -> None:
    if refused:
        for job, error in refused[:-1]:
            print_message(f"error: {job}: {error}")
        job, error = refused[-1]
        raise CommandError(f"{job}: {error}", error.code)


def _try_each(jobs: list[str], act: Callable[[str], Any]) -> tuple[list[Any], list[tuple[str, CommandError]]]:
    answers, refused = [], []
    for job in jobs:
        try:
            answers.append(act(job))
        except CommandError as error:
            refused.append((job, error))
    return answers, refused


def _post_action(client: Client, job: str, action: str) -> Any:
    return client.post(job_path(job, action))


def _delete_job(client: Client, job: str) -> str:
    client.delete(job_path(job))
    return job


def _format_row(job: Any) -> tuple[Any, ...]:
    progress = f"{job['progress']['fraction']:.0%}" if job["progress"] else None
    error = job["error"]["code"] if job["error"] else None
    return job["id"], job["kind"], job["state"], progress, job["source_model"], format_time(job["created_at"]), error
