"""`baichuan workers`: the workers that run jobs; administrators can drain them."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import format_time, print_json_list, print_message, print_table, print_text

app = typer.Typer(help="List workers, or drain one.", invoke_without_command=True)

WorkerId = Annotated[str, typer.Argument(help="Id of the worker, as `baichuan workers` lists it.")]


@app.callback()
def workers(
    context: typer.Context, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False
) -> None:
    """List the live workers; `workers drain` stops assigning jobs to one, `workers undrain` reverts that."""
    if context.invoked_subcommand is None:
        list_workers(url, key, as_json=as_json)
    elif url or key or as_json:
        raise CommandError(f"put the options after `workers {context.invoked_subcommand}`", ExitCode.USAGE)


def list_workers(url: str | None, key: str | None, *, as_json: bool) -> None:
    """List the live workers."""
    with connect(url, key) as client:
        found = list(client.list_items("/v1/workers"))
    if as_json:
        print_json_list(found)
    elif found:
        rows = [
            (
                w["id"],
                w["hostname"],
                w["state"],
                w["slots"],
                ",".join(w["kinds"]),
                describe_devices(w),
                format_time(w["seen_at"]),
            )
            for w in found
        ]
        print_table(("ID", "HOST", "STATE", "SLOTS", "KINDS", "DEVICES", "SEEN"), rows)
    else:
        print_message("no live workers: jobs wait until one is started with `baichuan worker`")


@app.command()
def drain(
    worker: WorkerId,
    deadline: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds after which running jobs must yield; by default they may finish."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Stop assigning jobs to a worker. Jobs that yield are queued again, and the attempt is not counted."""
    with connect(url, key) as client:
        client.post(f"/v1/workers/{quote(worker, safe='')}/drain", {"deadline_seconds": deadline})
    print_text(f"{worker} is draining; `baichuan workers undrain {worker}` reverts that")


@app.command()
def undrain(worker: WorkerId, url: UrlOption = None, key: KeyOption = None) -> None:
    """Allow a drained worker to take jobs again."""
    with connect(url, key) as client:
        client.post(f"/v1/workers/{quote(worker, safe='')}/undrain", {})
    print_text(f"{worker} accepts jobs again")


def describe_devices(worker: Any) -> str:
    """Return a short description of the worker's devices."""
    return ", ".join(str(device.get("name") or device.get("type") or "?") for device in worker["devices"]) or "cpu"
