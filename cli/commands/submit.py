"""`baichuan submit`: one command per job kind; also submits any spec from a file."""

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
from cli.options import JsonOption, KeyOption, UrlOption, connect
from cli.output import print_json, print_message, print_text
from cli.published_arguments import META_KEY, PublishedCommand, add_published_fields
from cli.spec_options import FILE_SUFFIX, SpecOption, create_options, get_spec_classes, parse_assignments, read_values
from cli.uploads import upload_if_local
from footprint import format_gib
from jobs.specs import JobSpec

app = typer.Typer(help="Submit a job.", invoke_without_command=True, no_args_is_help=True)

FILE_PURPOSE_BY_KIND = {"finetune": "fine-tune", "preview": "fine-tune", "generate": "prompts"}
DEFAULT_FILE_PURPOSE = "user_data"
TRAINING_DATA_FIELDS = {"training_file", "training_files"}  # a fine-tune needs one of these

WatchOption = Annotated[
    bool, typer.Option("--watch", "-w", help="Follow the job until it has ended; exit 1 unless it succeeded.")
]
IdempotencyKeyOption = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="Submitting again with the same key does not create a second job."),
]
AssignmentsOption = Annotated[
    list[str] | None, typer.Option("--set", help="FIELD=VALUE for any field, with VALUE as JSON or text; repeatable.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Do not submit the job; show its requirements and its place in the queue.")
]
ChatOption = Annotated[
    list[str] | None, typer.Option("--chat", help="A question that becomes a separate conversation; repeatable.")
]


@app.callback()
def submit(
    context: typer.Context,
    file: Annotated[str | None, typer.Option("--file", "-f", help="Job spec as a JSON file; '-' reads stdin.")] = None,
    idempotency_key: IdempotencyKeyOption = None,
    *,
    watch: WatchOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job with the options of its kind, or with a spec from a file."""
    if context.invoked_subcommand:
        if any((file, idempotency_key, watch, dry_run, url, key, as_json)):
            message = f"put the options after `submit {context.invoked_subcommand}`; use --file without a job kind"
            raise CommandError(message, ExitCode.USAGE)
        return
    if file is None:
        raise CommandError("pass a job kind or --file; see `baichuan submit --help`", ExitCode.USAGE)
    with connect(url, key) as client:
        body = _read_spec(file)
        if dry_run:
            show_dry_run(client, body, as_json=as_json)
        else:
            submit_job(client, body, idempotency_key, watch=watch, as_json=as_json)


def _create_command(kind: str, spec: type[JobSpec]) -> Callable[..., None]:
    """Return the command for a job kind; typer reads its options from the signature that is set here."""
    options = create_options(spec)
    chats = "conversations" in spec.model_fields

    def submit_command(**given: Any) -> None:
        body = {"kind": kind, **read_values(options, given), **_build_conversations(given.get("chat"))}
        body |= parse_assignments(given["assignments"] or [])
        body = add_published_fields(given["context"].meta.get(META_KEY, {}), body)
        if kind == "finetune" and not TRAINING_DATA_FIELDS & body.keys():
            raise CommandError("pass --training-file, or --training-files once per file", ExitCode.USAGE)
        with connect(given["url"], given["key"]) as client:
            uploaded = _upload_files(client, kind, options, body)
            if given["dry_run"]:
                try:
                    show_dry_run(client, body, as_json=given["as_json"])
                finally:
                    for each in uploaded:
                        client.delete(f"/v1/files/{each}")
            else:
                submit_job(client, body, given["idempotency_key"], watch=given["watch"], as_json=given["as_json"])

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *(option.build_parameter() for option in options)]
    shared: list[tuple[str, Any, Any]] = [("chat", ChatOption, None)] if chats else []
    shared += [("assignments", AssignmentsOption, None), ("idempotency_key", IdempotencyKeyOption, None)]
    shared += [
        ("watch", WatchOption, False),
        ("dry_run", DryRunOption, False),
        ("url", UrlOption, None),
        ("key", KeyOption, None),
        ("as_json", JsonOption, False),
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in shared
    ]
    submit_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    submit_command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return submit_command


for _kind, _spec in get_spec_classes().items():
    _class = PublishedCommand if _kind == "finetune" else TyperCommand
    app.command(_kind, cls=_class, help=inspect.getdoc(_spec), no_args_is_help=True)(_create_command(_kind, _spec))


def _build_conversations(chats: list[str] | None) -> dict[str, Any]:
    if not chats:
        return {}
    return {"conversations": [[{"role": "user", "content": question}] for question in chats]}


def _upload_files(client: Client, kind: str, options: list[SpecOption], body: dict[str, Any]) -> list[str]:
    """Upload the local files that the body names and replace their paths with ids; return the new ids."""
    uploaded = []
    for option in options:
        given = body.get(option.field)
        purpose = FILE_PURPOSE_BY_KIND.get(kind, DEFAULT_FILE_PURPOSE)
        if option.field.endswith(FILE_SUFFIX) and isinstance(given, str):
            body[option.field] = upload_if_local(client, given, purpose)
            if body[option.field] != given:
                uploaded.append(body[option.field])
        elif option.form == "weighted files" and isinstance(given, list):
            body[option.field] = [{**each, "file": upload_if_local(client, each["file"], purpose)} for each in given]
            pairs = zip(given, body[option.field], strict=True)
            uploaded += [made["file"] for named, made in pairs if made["file"] != named["file"]]
    return uploaded


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


def submit_job(client: Client, body: Any, idempotency_key: str | None, *, watch: bool, as_json: bool) -> None:
    """Submit a job; an idempotency key makes it safe to retry the request if the response is lost."""
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    job = client.post("/v1/jobs", body, headers)
    if watch:
        print_message(f"submitted {job['id']}")
        follow(client, [job["id"]], as_json=as_json)
    elif as_json:
        print_json(job)
    else:
        print_text(job["id"])


def show_dry_run(client: Client, body: Any, *, as_json: bool) -> None:
    """Show what a job would require, without submitting it."""
    found = client.post("/v1/jobs", body, params={"dry_run": "true"})
    if as_json:
        print_json(found)
        return
    required, estimate = found["requirements"], found["estimate"]
    print_text(f"the job would be accepted, as number {found['queue_position']} in the queue")
    devices = f"{required['devices']} with {format_gib(required['device_memory_bytes'])} each"
    print_text(
        f"devices: {devices} on {required['nodes']} node(s); host memory: {format_gib(required['host_memory_bytes'])}"
    )
    if estimate is not None:
        print_text(f"estimate: at most {format_gib(estimate['total_bytes'])} of {estimate['place']} memory")
