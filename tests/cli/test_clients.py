"""The client commands against a running service: their output and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.exit_codes import ExitCode
from tests.cli.shell import Shell

CONVERSATIONS = [
    {"id": "1", "conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "您好"}]},
]


def submitted(service: Shell, *arguments: str, stdin: str = "") -> Any:
    """Submit a job and return it."""
    done = service("submit", *arguments, "--json", stdin=stdin)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_every_field_of_every_kind_is_an_option(service: Shell, model: str) -> None:
    conversations = service.directory / "chats.json"
    conversations.write_text(json.dumps([[{"role": "user", "content": "Hi"}]]))
    job = submitted(
        service,
        *("generate", "--model", model, "--conversations", str(conversations), "--max-new-tokens", "7"),
        *("--temperature", "0", "--top-k", "5", "--top-p", "0.5", "--repetition-penalty", "1.1", "--stop", "。"),
        *("--stop", "\n", "--seed", "3", "--batch-size", "2", "--dtype", "float32", "--priority", "-4"),
        *("--label", "team=a", "--label", "run=b=c", "--max-attempts", "2", "--timeout-seconds", "60"),
    )
    assert (
        job["spec"]
        | {
            "conversations": [[{"role": "user", "content": "Hi"}]],
            "temperature": 0,
            "top_k": 5,
            "top_p": 0.5,
            "stop": ["。", "\n"],
            "labels": {"team": "a", "run": "b=c"},
            "priority": -4,
            "dtype": "float32",
        }
        == job["spec"]
    )
    job = submitted(service, "quantize", "--model", model, "--method", "fp4", "--no-double-quantization")
    assert (job["spec"]["method"], job["spec"]["double_quantization"]) == ("fp4", False)
    job = submitted(service, "convert", "--model", model, "--target", "baichuan1", "--output-model", "sample/converted")
    assert job["model"] == "sample/converted"


def test_questions_and_fields_by_name(service: Shell, model: str) -> None:
    job = submitted(service, "generate", "--model", model, "--chat", "Who?", "--set", "top_k=3", "--set", 'stop=["x"]')
    assert job["spec"]["conversations"] == [[{"role": "user", "content": "Who?"}]]
    assert (job["spec"]["top_k"], job["spec"]["stop"]) == (3, ["x"])


def test_models_are_pulled_by_name(service: Shell) -> None:
    pulled = [
        json.loads(service("models", "pull", "baichuan-inc/Tiny", *more, "--json").out)
        for more in ((), ("--revision", "v1", "--name", "tiny-v1"))
    ]
    assert [(job["kind"], job["model"]) for job in pulled] == [("pull", "baichuan-inc/Tiny"), ("pull", "tiny-v1")]
    assert [job["spec"]["revision"] for job in pulled] == ["main", "v1"]
    assert submitted(service, "pull", "--repository", "a/b")["source_model"] == "a/b"
    again = service("models", "pull", "baichuan-inc/Tiny")
    assert again.code == ExitCode.REFUSED
    assert "choose another name" in again.err


def test_fine_tuning_uploads_its_local_file(service: Shell, model: str) -> None:
    data = service.directory / "data.json"
    data.write_text(json.dumps(CONVERSATIONS))
    job = submitted(service, "finetune", "--model", model, "--training-file", "data.json", "--epochs", "2.5")
    files = json.loads(service("files", "--json").out)["data"]
    (file,) = (each for each in files if each["filename"] == "data.json")
    assert (file["id"], file["filename"], file["purpose"]) == (job["spec"]["training_file"], "data.json", "fine-tune")
    again = submitted(service, "finetune", "--model", model, "--training-file", file["id"])
    assert again["spec"]["training_file"] == file["id"]
    uploaded = service("files", "upload", "data.json", "--purpose", "batch")
    assert uploaded.out.startswith("file-")
    assert service("files", "delete", uploaded.out.strip()).code == 0
    endless = service("files", "upload", "/dev/zero", "--purpose", "batch")
    assert (endless.code, endless.err) == (2, "error: cannot read /dev/zero: not a regular file\n")
    assert len(json.loads(service("files", "list", "--json").out)["data"]) == len(files)


def test_specs_from_files_and_idempotency_keys(service: Shell, model: str) -> None:
    spec = {"kind": "generate", "model": model, "prompts": ["Hi"]}
    (service.directory / "spec.json").write_text(json.dumps(spec))
    first = submitted(service, "--file", "spec.json", "--idempotency-key", "k1")
    again = submitted(service, "--file", "-", "--idempotency-key", "k1", stdin=json.dumps(spec))
    assert first["id"] == again["id"]
    other = service("submit", "--file", "-", "--idempotency-key", "k1", stdin=json.dumps({**spec, "seed": 1}))
    assert other.code == ExitCode.REFUSED
    assert first["id"] in other.err
    malformed = service("submit", "--file", "-", stdin="{")
    assert malformed.code == ExitCode.USAGE
    assert "not valid JSON" in malformed.err


def test_lists_are_complete_and_filtered(service: Shell, model: str) -> None:
    made = [submitted(service, "generate", "--model", model, "--prompt", "x", "--label", "set=lists") for _ in range(3)]
    ids = [job["id"] for job in reversed(made)]
    listed = json.loads(service("list", "--json", "--label", "set=lists").out)
    assert sorted(listed) == ["data", "object"]
    assert [job["id"] for job in listed["data"]] == ids
    assert len(json.loads(service("list", "--json", "--label", "set=lists", "--limit", "2").out)["data"]) == 2
    nothing = service("list", "--json", "--state", "running", "--kind", "quantize")
    assert json.loads(nothing.out) == {"object": "list", "data": []}
    everything = json.loads(service("list", "--all", "--json").out)["data"]
    assert set(ids) < {job["id"] for job in everything}
    table = service("list", "--all").out
    assert all(job_id in table for job_id in ids)


def test_cancel_retry_watch_show_and_logs(service: Shell, model: str) -> None:
    job = submitted(service, "generate", "--model", model, "--prompt", "x")["id"]
    too_early = service("retry", job)
    assert too_early.code == ExitCode.REFUSED
    assert "only a failed or cancelled job can be retried" in too_early.err
    assert service("cancel", job).out == f"{job}  generate  cancelled\n"
    assert json.loads(service("retry", job, "--json").out)["data"][0]["state"] == "queued"
    assert service("cancel", job).code == 0
    watched = service("watch", job)
    assert (watched.code, watched.out) == (ExitCode.FAILED, f"{job}  generate  cancelled\n")
    assert [json.loads(line)["state"] for line in service("watch", job, "--json").out.splitlines()] == ["cancelled"]
    shown = json.loads(service("show", job, "--json").out)
    assert (shown["id"], shown["attempt_list"]) == (job, [])
    assert service("show", job).out.startswith(f"{job}  generate  cancelled\n{{")
    logs = service("logs", job, "--follow")
    assert (logs.code, logs.out) == (0, "")
    assert json.loads(service("logs", job, "--json").out) == {"object": "list", "data": []}
    assert json.loads(service("artifacts", job, "--json").out) == {"object": "list", "data": []}


def test_several_jobs_of_which_one_is_unknown(service: Shell, model: str) -> None:
    job = submitted(service, "generate", "--model", model, "--prompt", "x")["id"]
    done = service("cancel", "job-" + "0" * 26, job)
    assert (done.code, done.out) == (ExitCode.REFUSED, f"{job}  generate  cancelled\n")
    assert "there is no job" in done.err


def test_refusals_are_one_readable_line(service: Shell, model: str) -> None:
    unknown = service("submit", "generate", "--model", "nope", "--prompt", "x")
    assert (unknown.code, unknown.out) == (ExitCode.REFUSED, "")
    assert unknown.err.startswith("error: model: there is no model 'nope'")
    assert unknown.err.endswith("(status 422)\n")
    invalid = service("submit", "generate", "--model", model, "--set", "seed=-1", "--prompt", "x")
    assert invalid.code == ExitCode.REFUSED
    assert invalid.err.count("\n") == 1
    assert "seed" in invalid.err
    outside = service("models", "add", "etc", "/etc")
    assert outside.code == ExitCode.REFUSED
    assert "allowed model root" in outside.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("submit", "generate", "--model", "m", "--max-new-tokens", "0"),
        ("submit", "finetune", "--model", "m"),
        ("submit", "generate", "--model", "m", "--set", "seed"),
        ("list", "--state", "asleep"),
        ("list", "--kind", "nope"),
        ("submit", "--json", "generate", "--model", "m", "--prompt", "x"),
        ("keys", "--json", "list"),
        ("submit", "--watch"),
    ],
)
def test_wrong_usage(service: Shell, arguments: tuple[str, ...]) -> None:
    done = service(*arguments)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert done.err


def test_keys_grant_access_until_they_are_revoked(service: Shell) -> None:
    made = json.loads(service("keys", "create", "guest", "--project", "guests", "--json").out)
    secret = made["secret"]
    assert json.loads(service("list", "--json", BAICHUAN_API_KEY=secret).out)["data"] == []
    assert service("keys", BAICHUAN_API_KEY=secret).code == ExitCode.UNAUTHENTICATED
    assert service("keys", "revoke", made["id"]).code == 0
    refused = service("list", "--key", secret)
    assert refused.code == ExitCode.UNAUTHENTICATED
    assert "unknown or revoked" in refused.err
    assert made["id"] in service("keys").out


def test_no_service(shell: Shell, service: Shell) -> None:
    unknown = shell("list")
    assert unknown.code == ExitCode.UNREACHABLE
    assert "start one with `baichuan up`" in unknown.err
    down = shell("list", "--url", "http://127.0.0.1:9", "--key", "x")
    assert down.code == ExitCode.UNREACHABLE
    assert "no response from http://127.0.0.1:9" in down.err
    for address in ("ftp://host", "http://host:port", "http://127.0.0.1:99999", "http://127.0.0.1:0", "http://[::1"):
        for key in ({}, {"BAICHUAN_API_KEY": "x"}):
            wrong = shell("list", BAICHUAN_URL=address, **key)
            assert (wrong.code, address in wrong.err, "BAICHUAN_URL" in wrong.err) == (ExitCode.USAGE, True, True)
    assert shell("list", "--url", "http://127.0.0.1:9", "--key", "ключ").code == ExitCode.UNAUTHENTICATED
    elsewhere = service("list", "--url", "http://127.0.0.1:9")
    assert elsewhere.code == ExitCode.UNAUTHENTICATED  # the saved key goes to the saved address only


def test_other_spellings_of_the_saved_address(service: Shell) -> None:
    url = json.loads((service.directory / ".baichuan/client.json").read_text())["url"]
    local = url.replace("127.0.0.1", "localhost")
    for spelling in (f"{url}/v1", f"{url}/v1/", local, f"{local}/v1"):
        done = service("keys", "list", "--json", BAICHUAN_URL=spelling)
        assert done.code == 0, done.err
    other_port = service("keys", "list", "--url", "http://localhost:9")
    assert other_port.code == ExitCode.UNAUTHENTICATED
    assert "no API key for http://localhost:9" in other_port.err
    assert service("keys", "list", "--url", "http://localhost:x").code == ExitCode.USAGE


def test_an_unknown_kind_is_named(service: Shell) -> None:
    assert "--kind is 'nope'; use one of generate, quantize" in service("list", "--kind", "nope").err


def test_an_argument_from_a_gbk_terminal_is_one_readable_line(service: Shell, model: str) -> None:
    prompt = "你好".encode("gbk").decode("utf-8", "surrogateescape")
    for arguments in (("submit", "generate", "--model", model, "--prompt", prompt), ("show", prompt)):
        done = service(*arguments)
        assert (done.code, done.out) == (ExitCode.USAGE, "")
        assert done.err.count("\n") == 1
        assert done.err.startswith(
            "error: the argument '\\udcc4\\udce3\\udcba\\udcc3' is not valid UTF-8; set the terminal"
        )
    spec = service.directory / "gbk.json"
    spec.write_bytes('{"kind": "generate", "prompts": ["你好"]}'.encode("gbk"))
    assert "is not UTF-8" in service("submit", "--file", "gbk.json").err


def test_a_key_that_no_header_can_carry_is_one_readable_line(service: Shell, model: str) -> None:
    done = service("submit", "generate", "--model", model, "--prompt", "x", "--idempotency-key", "键")
    assert (done.code, done.err.count("\n")) == (ExitCode.USAGE, 1)
    assert "use only printable ASCII characters" in done.err


def test_a_terminal_without_these_characters_shows_their_codes(service: Shell, model: str) -> None:
    job = submitted(service, "generate", "--model", model, "--prompt", "😀")
    shown = service.process("show", job["id"], PYTHONIOENCODING="gbk", PYTHONUTF8="0")
    assert shown.code == 0, shown.err
    assert "U0001f600" in shown.out


def test_doctor_names_what_is_wrong_and_the_remedy(service: Shell, shell: Shell) -> None:
    done = service("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.out)["data"]}
    assert done.code == ExitCode.FAILED
    assert {name for name, check in checks.items() if check["status"] == "failed"} == {"workers"}
    assert "baichuan worker" in checks["workers"]["remedy"]
    assert {"python", "engine", "database", "redis", "disk", "gpu", "service", "key", "model root"} < set(checks)
    nowhere = shell("doctor")
    assert nowhere.code == ExitCode.FAILED
    assert "-> start `baichuan up`" in nowhere.out


def test_output_goes_into_pipes_and_commands_into_processes(service: Shell) -> None:
    done = service.process("list", "--json")
    assert json.loads(done.out)["object"] == "list"
    assert service.process("list").code == 0
    assert service("workers", "--json").out == '{\n  "object": "list",\n  "data": []\n}\n'
    assert Path(service.directory / ".baichuan/client.json").exists()


def test_a_dry_run_submits_nothing_and_leaves_no_file(service: Shell, model: str) -> None:
    data = service.directory / "dry.json"
    data.write_text(json.dumps(CONVERSATIONS))

    def everything() -> list[list[str]]:
        # Only ids: why a job waits changes by itself while the service runs.
        lists = (service("list", "--all", "--json").out, service("files", "list", "--json").out)
        return [[row["id"] for row in json.loads(shown)["data"]] for shown in lists]

    before = everything()
    fields = ("finetune", "--model", model, "--training-file", str(data), "--dry-run")
    shown = service("submit", *fields)
    assert shown.code == 0, shown.err
    assert "would be accepted, as number" in shown.out
    found = json.loads(service("submit", *fields, "--json").out)
    assert found["object"] == "job.dry_run"
    spec = service.directory / "dry-spec.json"
    spec.write_text(json.dumps({"kind": "quantize", "model": model, "method": "nf4"}))
    assert service("submit", "--file", str(spec), "--dry-run").code == 0
    assert everything() == before
    refused = service("submit", "quantize", "--model", "nobody", "--method", "nf4", "--dry-run")
    assert refused.code == ExitCode.REFUSED


def test_fine_tunes_can_be_paused_and_resumed(service: Shell, model: str) -> None:
    data = service.directory / "paused.json"
    data.write_text(json.dumps(CONVERSATIONS))
    job = submitted(service, "finetune", "--model", model, "--training-file", str(data))["id"]
    answers = [json.loads(service(action, job, "--json").out) for action in ("pause", "resume", "pause")]
    states = [answer["data"][0]["state"] for answer in answers]
    assert states == ["paused", "queued", "paused"]
    assert service("cancel", job).code == 0
