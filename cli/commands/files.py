"""`baichuan files`: list, upload and delete files."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.options import AsJson, Key, Url, connect
from cli.output import emit, emit_list, format_size, format_time, say, show, show_table
from cli.uploads import upload as send

app = typer.Typer(help="List, upload or delete files.", invoke_without_command=True)


@app.callback()
def files(context: typer.Context, url: Url = None, key: Key = None, *, as_json: AsJson = False) -> None:
    """List uploaded files; `files upload` adds one, `files delete` removes one."""
    if not context.invoked_subcommand:
        list_files(None, url, key, as_json=as_json)
    elif url or key or as_json:
        raise CommandError(f"put the options after `files {context.invoked_subcommand}`", ExitCode.USAGE)


@app.command("list")
def list_files(
    purpose: Annotated[str | None, typer.Option(help="List only files for this purpose.")] = None,
    url: Url = None,
    key: Key = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List uploaded files, newest first."""
    with connect(url, key) as client:
        found = list(client.list_items("/v1/files", {"purpose": purpose}))
    if as_json:
        emit_list(found)
    elif found:
        rows = [
            (f["id"], f["filename"], f["purpose"], format_size(f["bytes"]), format_time(f["created_at"])) for f in found
        ]
        show_table(("ID", "FILENAME", "PURPOSE", "SIZE", "CREATED"), rows)
    else:
        say("no files")


@app.command("upload")
def upload(
    path: Annotated[Path, typer.Argument(help="A local file.")],
    purpose: Annotated[str, typer.Option(help="Purpose of the file: fine-tune, prompts or batch.")] = "fine-tune",
    url: Url = None,
    key: Key = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Upload a file and print its id."""
    with connect(url, key) as client:
        made = send(client, path, purpose)
    emit(made) if as_json else show(made["id"])


@app.command("delete")
def delete(file: Annotated[str, typer.Argument(help="Id of a file.")], url: Url = None, key: Key = None) -> None:
    """Delete an uploaded file."""
    with connect(url, key) as client:
        client.delete(f"/v1/files/{quote(file, safe='')}")
    say(f"deleted {file}")
