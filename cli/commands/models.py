"""`baichuan models`: the checkpoints and adapters that jobs can use."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from cli.commands.submit import WatchOption, submit_job
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import format_time, print_json, print_json_list, print_message, print_table, print_text

app = typer.Typer(
    help="List, register, download or delete models, or convert one to GGUF.", invoke_without_command=True
)


@app.callback()
def models(
    context: typer.Context, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False
) -> None:
    """List the models that jobs can use; `models add` registers one, `models pull` downloads one."""
    if not context.invoked_subcommand:
        list_models(url, key, as_json=as_json)
    elif url or key or as_json:
        raise CommandError(f"put the options after `models {context.invoked_subcommand}`", ExitCode.USAGE)


@app.command("list")
def list_models(url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """List the models that jobs can use."""
    with connect(url, key) as client:
        found = list(client.list_items("/v1/models"))
    if as_json:
        print_json_list(found)
    elif found:
        rows = [(m["id"], m["kind"], m["base"], m["path"] or m["job_id"], format_time(m["created"])) for m in found]
        print_table(("ID", "KIND", "BASE", "FROM", "CREATED"), rows)
    else:
        print_message(
            "no models; register one with `baichuan models add ID PATH`, "
            "or download one with `baichuan models pull REPO`"
        )


@app.command("add")
def add(
    model: Annotated[str, typer.Argument(metavar="ID", help="Name by which jobs refer to the model.")],
    path: Annotated[Path, typer.Argument(help="Directory of the model on the server, under an allowed model root.")],
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Register a checkpoint or adapter directory."""
    with connect(url, key) as client:
        made = client.post("/v1/models", {"id": model, "path": str(path.absolute())})
    print_json(made) if as_json else print_text(made["id"])


@app.command("delete")
def delete(
    model: Annotated[str, typer.Argument(metavar="ID", help="Id of an unused model.")],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Delete a model; files that a job produced are deleted too, but a registered directory is kept."""
    with connect(url, key) as client:
        client.delete(f"/v1/models/{quote(model, safe='')}")
    print_message(f"deleted {model}")


@app.command("gguf")
def gguf(
    model: Annotated[str, typer.Argument(metavar="ID", help="ID of the model to convert; adapters are not supported.")],
    gguf_type: Annotated[
        str, typer.Option("--type", help="Weight type: f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0.")
    ] = "q8_0",
    output_model: Annotated[
        str | None, typer.Option(help="Name by which jobs refer to the new model; ID-gguf-TYPE by default.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a job that converts a model to GGUF, for llama.cpp on a CPU."""
    name = output_model or f"{model}-gguf-{gguf_type.replace('_', '-')}"
    body = {"kind": "convert", "model": model, "target": "gguf", "gguf_type": gguf_type, "output_model": name}
    with connect(url, key) as client:
        submit_job(client, body, None, watch=watch, as_json=as_json)


@app.command("pull")
def pull(
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository with its owner, such as baichuan-inc/Baichuan2-7B-Chat.")
    ],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    name: Annotated[str | None, typer.Option(help="Name by which jobs refer to the model; REPO by default.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a job that downloads a model, without its code, from the Hugging Face Hub or a mirror."""
    body = {"kind": "pull", "repository": repository, "revision": revision, "output_model": name or repository}
    with connect(url, key) as client:
        submit_job(client, body, None, watch=watch, as_json=as_json)
