"""`baichuan keys`: manage API keys (administrators only)."""

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import format_time, print_json, print_json_list, print_message, print_table, print_text

app = typer.Typer(help="List, create or revoke API keys.", invoke_without_command=True)
COLUMNS = ("ID", "NAME", "PROJECT", "ROLE", "KEY", "CREATED", "REVOKED")


class Role(StrEnum):
    """The role of an API key."""

    ADMIN = "admin"
    MEMBER = "member"


@app.callback()
def keys(context: typer.Context, url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """List API keys; `keys create` creates one, `keys revoke` revokes one."""
    if not context.invoked_subcommand:
        list_keys(url, key, as_json=as_json)
    elif url or key or as_json:
        raise CommandError(f"put the options after `keys {context.invoked_subcommand}`", ExitCode.USAGE)


@app.command("list")
def list_keys(url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """List API keys, without their secrets."""
    with connect(url, key) as client:
        found = list(client.list_items("/v1/keys"))
    if as_json:
        print_json_list(found)
        return
    rows = [
        (
            k["id"],
            k["name"],
            k["project"],
            k["role"],
            k["hint"],
            format_time(k["created_at"]),
            format_time(k["revoked_at"]),
        )
        for k in found
    ]
    print_table(COLUMNS, rows)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name that describes the purpose of the key.")],
    project: Annotated[
        str, typer.Option(help="Project whose jobs, models and files the key can access; created if needed.")
    ] = "default",
    role: Annotated[Role, typer.Option(help="Role of the key; only administrators can manage keys.")] = Role.MEMBER,
    url: UrlOption = None,
    key: KeyOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Create an API key; its secret is printed only once."""
    with connect(url, key) as client:
        made = client.post("/v1/keys", {"name": name, "project": project, "role": role})
    if as_json:
        print_json(made)
    else:
        print_message(f"{made['id']} for project {made['project']}; save the secret, which will not be shown again")
        print_text(made["secret"])


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of a key.")], url: UrlOption = None, key: KeyOption = None
) -> None:
    """Revoke an API key; it becomes invalid immediately."""
    with connect(url, key) as client:
        client.delete(f"/v1/keys/{quote(key_id, safe='')}")
    print_message(f"revoked {key_id}")
