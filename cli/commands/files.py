"""`baichuan files`: list, upload and delete files."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import format_size, format_time, print_json, print_json_list, print_message, print_table, print_text
from cli.uploads import upload as send

app = typer.Typer(help="List, upload or delete files.", invoke_without_command=True)


@app.callback()
def files(context: typer.Context, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """List uploaded files; `files upload` adds one, `files delete` removes one."""
    if not context.invoked_subcommand:
        list_files(None, url, key, as_json=as_json)
    elif url or key or as_json:
        raise CommandError(f"put the options after `files {context.invoked_subcommand}`", ExitCode.USAGE)


@app.command("list")
def list_files(
    purpose: Annotated[str | None, typer.Option(help="List only files for this purpose.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List uploaded files, newest first."""
    with connect(url, key) as client:
        found = list(client.list_items("/v1/files", {"purpose": purpose}))
    if as_json:
        print_json_list(found)
    elif found:
        rows = [
            (f["id"], f["filename"], f["purpose"], format_size(f["bytes"]), format_time(f["created_at"])) for f in found
        ]
        print_table(("ID", "FILENAME", "PURPOSE", "SIZE", "CREATED"), rows)
    else:
        print_message("no files")


@app.command("upload")
def upload(
    path: Annotated[Path, typer.Argument(help="A local file.")],
    purpose: Annotated[str, typer.Option(help="Purpose of the file: fine-tune, prompts or batch.")] = "fine-tune",
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Upload a file and print its id."""
    with connect(url, key) as client:
        made = send(client, path, purpose)
    print_json(made) if as_json else print_text(made["id"])


@app.command("delete")
def delete(
    file: Annotated[str, typer.Argument(help="Id of a file.")], url: UrlOption = None, key: KeyOption = None
) -> None:
    """Delete an uploaded file."""
    with connect(url, key) as client:
        client.delete(f"/v1/files/{quote(file, safe='')}")
    print_message(f"deleted {file}")
