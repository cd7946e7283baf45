"""`baichuan submit`: one command a job kind, and any spec from a file."""

import inspect
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cli.client import Client
from cli.commands.watch import follow
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.options import AsJson, Key, Url, connect
from cli.output import emit, say, show
from cli.published_arguments import META_KEY, PublishedCommand, published_fields
from cli.spec_options import FILE_SUFFIX, SpecOption, options_of, settings, spec_classes, values
from cli.uploads import file_id
from jobs.specs import JobSpec

app = typer.Typer(help="Submit a job.", invoke_without_command=True, no_args_is_help=True)

PURPOSES = {"finetune": "fine-tune", "preview": "fine-tune"}
OTHER_PURPOSE = "prompts"

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Stay until the job has ended; exit 1 if it failed.")]
RepeatKey = Annotated[
    str | None, typer.Option("--idempotency-key", help="Submitting again with the same key makes no second job.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="FIELD=VALUE for any field, the value as JSON or text; repeatable.")
]
Chats = Annotated[
    list[str] | None, typer.Option("--chat", help="A conversation that consists of this question; repeatable.")
]


@app.callback()
def submit(
    context: typer.Context,
    file: Annotated[str | None, typer.Option("--file", "-f", help="A job spec as JSON; '-' reads stdin.")] = None,
    idempotency_key: RepeatKey = None,
    *,
    watch: Watch = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job: by the options of its kind, or as a spec in a file."""
    if context.invoked_subcommand:
        if any((file, idempotency_key, watch, url, key, as_json)):
            message = f"write the options behind `submit {context.invoked_subcommand}`; --file goes without a job kind"
            raise CommandError(message, ExitCode.USAGE)
        return
    if file is None:
        raise CommandError("give a job kind or --file; see `baichuan submit --help`", ExitCode.USAGE)
    with connect(url, key) as client:
        send(client, _read_spec(file), idempotency_key, watch=watch, as_json=as_json)


def _command(kind: str, spec: type[JobSpec]) -> Callable[..., None]:
    """The command of a kind; typer takes its options from the signature that it is given here."""
    options = options_of(spec)
    chats = "conversations" in spec.model_fields

    def command(**given: Any) -> None:
        body = {"kind": kind, **values(options, given), **_conversations(given.get("chat"))}
        body |= settings(given["assignments"] or [])
        body = published_fields(given["context"].meta.get(META_KEY, {}), body)
        with connect(given["url"], given["key"]) as client:
            _upload_files(client, kind, options, body)
            send(client, body, given["idempotency_key"], watch=given["watch"], as_json=given["as_json"])

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *(option.parameter() for option in options)]
    shared: list[tuple[str, Any, Any]] = [("chat", Chats, None)] if chats else []
    shared += [("assignments", Assignments, None), ("idempotency_key", RepeatKey, None)]
    shared += [("watch", Watch, False), ("url", Url, None), ("key", Key, None), ("as_json", AsJson, False)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in shared
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


for _kind, _spec in spec_classes().items():
    _class = PublishedCommand if _kind == "finetune" else TyperCommand
    app.command(_kind, cls=_class, help=inspect.getdoc(_spec), no_args_is_help=True)(_command(_kind, _spec))


def _conversations(chats: list[str] | None) -> dict[str, Any]:
    if not chats:
        return {}
    return {"conversations": [[{"role": "user", "content": question}] for question in chats]}


def _upload_files(client: Client, kind: str, options: list[SpecOption], body: dict[str, Any]) -> None:
    for option in options:
        given = body.get(option.field)
        purpose = PURPOSES.get(kind, OTHER_PURPOSE)
        if option.field.endswith(FILE_SUFFIX) and isinstance(given, str):
            body[option.field] = file_id(client, given, purpose)
        elif option.form == "weighted files" and isinstance(given, list):
            body[option.field] = [{**each, "file": file_id(client, each["file"], purpose)} for each in given]


def _read_spec(file: str) -> Any:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}", ExitCode.USAGE) from error
    except UnicodeDecodeError as error:
        message = f"{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        raise CommandError(message, ExitCode.USAGE) from error
    except ValueError as error:
        raise CommandError(f"{file} is not valid JSON: {error}", ExitCode.USAGE) from error


def send(client: Client, body: Any, idempotency_key: str | None, *, watch: bool, as_json: bool) -> None:
    """Submit; a key of our own makes it safe to repeat the request if the answer is lost."""
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    job = client.post("/v1/jobs", body, headers)
    if watch:
        say(f"submitted {job['id']}")
        follow(client, [job["id"]], as_json=as_json)
    elif as_json:
        emit(job)
    else:
        show(job["id"])
