"""`baichuan resume-points`: list the resume points of a fine-tune, or turn one into a model."""

from typing import Annotated

import typer

from baichuan_client.calls import job_path
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import format_time, print_json, print_json_list, print_message, print_table, print_text

app = typer.Typer(help="List the resume points of a fine-tune, or turn one into a model.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="Id of a job.")]


@app.command("list")
def list_points(job: JobId, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """List the resume points of a job; they are deleted once it has succeeded."""
    with connect(url, key) as client:
        found = list(client.list_items(job_path(job, "resume-points")))
    if as_json:
        print_json_list(found)
    elif found:
        rows = [(p["step"], p["kind"], p["bytes"], p["attempt_id"], format_time(p["created_at"])) for p in found]
        print_table(("STEP", "KIND", "BYTES", "ATTEMPT", "SAVED"), rows)
    else:
        print_message("no resume points")


@app.command("publish")
def publish(
    job: JobId,
    step: Annotated[int, typer.Argument(min=1, help="Step of the resume point.")],
    output_model: Annotated[str | None, typer.Option(help="Id of the model; JOB-step-STEP by default.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Turn a resume point into a model; the job remains unchanged."""
    with connect(url, key) as client:
        made = client.post(job_path(job, f"resume-points/{step}/publish"), {"id": output_model})
    print_json(made) if as_json else print_text(made["id"])
