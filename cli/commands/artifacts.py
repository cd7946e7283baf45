"""`baichuan artifacts`: the files that a job has published."""

from pathlib import Path
from typing import Annotated

import typer

from baichuan_client.calls import job_path
from cli.downloads import download
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import format_size, print_json_list, print_message, print_table, print_text


def artifacts(
    job: Annotated[str, typer.Argument(help="Id of a job.")],
    directory: Annotated[
        Path | None,
        typer.Option(
            "--download",
            "-d",
            file_okay=False,
            help="Directory to download the files to; an interrupted download is resumed.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only files whose path starts with this prefix; repeatable.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List or download the files that a job has published."""
    with connect(url, key) as client:
        found = list(client.list_items(job_path(job, "artifacts")))
        chosen = [item for item in found if only is None or item["path"].startswith(tuple(only))]
        if directory is not None:
            for item in chosen:
                item["local_path"] = str(download(client, item, directory))
                if not as_json:
                    print_text(item["local_path"])
    if as_json:
        print_json_list(chosen)
    elif not chosen:
        print_message("no artifacts")
    elif directory is None:
        print_table(("PATH", "SIZE", "SHA256"), [(i["path"], format_size(i["bytes"]), i["sha256"]) for i in chosen])
