"""The text that `up` prints once it is ready: commands that can be pasted into another terminal."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from baichuan_client.endpoint import Endpoint
from cli.client import Client

EXAMPLES_FOLDER = Path(__file__).resolve().parents[2] / "examples"
TINY_MODEL = "tiny"


def format_first_steps(endpoint: Endpoint, home: Path) -> str:
    """Return the address, the key, a sign-in link and the first commands to try."""
    curl = f'curl -s -H "Authorization: Bearer {endpoint.api_key}" {endpoint.url}/v1/jobs'
    lines = [
        f"Baichuan Jobs is running at {endpoint.url} (documentation: {endpoint.url}/docs)",
        f"Dashboard: {_create_sign_in_link(endpoint)} (the link signs you in once, within an hour)",
        f"API key: {endpoint.api_key}",
        f"State and logs: {home}",
        "",
        "Try it from another terminal in this directory:",
        f"  {curl}",
        *(f"  {line}" for line in _format_submit_commands(endpoint, home)),
        "",
        "Ctrl-C stops everything; jobs, artifacts and the key are kept.",
    ]
    return "\n".join(lines)


def _create_sign_in_link(endpoint: Endpoint) -> str:
    with Client(endpoint) as client:
        path: str = client.post("/v1/session/links")["path"]
    return endpoint.url + path


def _format_submit_commands(endpoint: Endpoint, home: Path) -> list[str]:
    program = _build_command_template() + _format_endpoint_options(endpoint, home)
    submit = "submit generate --model {} --prompt 'Hello' --max-new-tokens 16 --watch"
    with Client(endpoint) as client:
        ready = client.get("/v1/models", {"limit": 1})["data"]
    if ready:
        return [program.format(submit.format(shlex.quote(ready[0]["id"])))]
    if Path.cwd() != EXAMPLES_FOLDER.parent or not EXAMPLES_FOLDER.exists():
        return [program.format("models add NAME CHECKPOINT_DIRECTORY"), program.format(submit.format("NAME"))]
    folder = shlex.quote(str(_shorten_path(home / "models" / TINY_MODEL)))
    make = f"{shlex.quote(str(_shorten_path(Path(sys.executable))))} -m examples.tiny_checkpoint {folder}"
    add = program.format(f"models add {TINY_MODEL} {folder}")
    return [f"{make} && \\", f"  {add} && \\", f"  {program.format(submit.format(TINY_MODEL))}"]


def _build_command_template() -> str:
    """Return the `baichuan` command in a form that works in another shell, with {} in place of its arguments."""
    ours = Path(sys.executable).with_name("baichuan")
    found = shutil.which("baichuan")
    if found and Path(found).resolve() == ours.resolve() and "VIRTUAL_ENV" not in os.environ:
        return "baichuan {}"
    return f"{shlex.quote(str(_shorten_path(ours)))} {{}}"


def _format_endpoint_options(endpoint: Endpoint, home: Path) -> str:
    """Return the options that select this service, or an empty string if the defaults select it."""
    elsewhere = home != Path(".baichuan").resolve()
    if elsewhere or "BAICHUAN_URL" in os.environ or "BAICHUAN_API_KEY" in os.environ:
        return f" --url {endpoint.url} --key {shlex.quote(endpoint.api_key)}"
    return ""


def _shorten_path(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
