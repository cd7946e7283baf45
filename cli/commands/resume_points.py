"""`baichuan resume-points`: list the resume points of a fine-tune, or turn one into a model."""

from typing import Annotated

import typer

from baichuan_client.calls import job_path
from cli.options import AsJson, Key, Url, connect
from cli.output import emit, emit_list, format_time, say, show, show_table

app = typer.Typer(help="List the resume points of a fine-tune, or turn one into a model.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="Id of a job.")]


@app.command("list")
def list_points(job: JobId, url: Url = None, key: Key = None, *, as_json: AsJson = False) -> None:
    """List the resume points of a job; they are deleted once it has succeeded."""
    with connect(url, key) as client:
        found = list(client.list_items(job_path(job, "resume-points")))
    if as_json:
        emit_list(found)
    elif found:
        rows = [(p["step"], p["kind"], p["bytes"], p["attempt_id"], format_time(p["created_at"])) for p in found]
        show_table(("STEP", "KIND", "BYTES", "ATTEMPT", "SAVED"), rows)
    else:
        say("no resume points")


@app.command("publish")
def publish(
    job: JobId,
    step: Annotated[int, typer.Argument(min=1, help="Step of the resume point.")],
    output_model: Annotated[str | None, typer.Option(help="Id of the model; JOB-step-STEP by default.")] = None,
    url: Url = None,
    key: Key = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Turn a resume point into a model; the job remains unchanged."""
    with connect(url, key) as client:
        made = client.post(job_path(job, f"resume-points/{step}/publish"), {"id": output_model})
    emit(made) if as_json else show(made["id"])
