"""Running and successful jobs: watch, logs, artifacts."""

import json
import os
import pty
import subprocess
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from baichuan_client.endpoint import Endpoint
from cli.client import Client
from cli.downloads import download
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from tests.cli.hand_worker import HandWorker
from tests.cli.shell import BAICHUAN, Shell

METRICS = {"step": 40.0, "loss": 1.25, "tokens_per_second": 812.0}
LARGE = bytes(range(256)) * 5000
FILES = {"completions.jsonl": '{"text": "好"}\n'.encode(), "model/large file.bin": LARGE, "empty": b""}


@pytest.fixture
def worker(service: Shell) -> Iterator[HandWorker]:
    """A worker in the shared service."""
    worker = HandWorker(service.directory / ".baichuan")
    yield worker
    worker.close()


def queued(service: Shell, model: str) -> str:
    """The id of a new job."""
    return service("submit", "generate", "--model", model, "--prompt", "x").out.strip()


@pytest.fixture
def done(service: Shell, model: str, worker: HandWorker) -> str:
    """A job that has succeeded with some files."""
    job = queued(service, model)
    attempt = worker.begin(job)
    worker.report(attempt, 0.5, METRICS, "first line", "second line")
    worker.succeed(job, attempt, FILES)
    return job


def test_watch_and_logs_of_a_job_that_succeeds(service: Shell, done: str) -> None:
    watched = service("watch", done)
    assert (watched.code, watched.out) == (0, f"{done}  generate  succeeded\n")
    assert service("logs", done).out == "first line\nsecond line\n"
    assert service("logs", done, "--follow").out == "first line\nsecond line\n"
    (event,) = json.loads(service("logs", done, "--json").out)["data"]
    assert event["data"]["lines"] == ["first line", "second line"]
    assert json.loads(service("logs", done, "--follow", "--json").out)["sequence"] == event["sequence"]
    (attempt,) = json.loads(service("show", done, "--json").out)["attempt_list"]
    assert attempt["state"] == "succeeded"


def test_wait_ends_with_the_last_job_of_a_label(service: Shell, model: str, worker: HandWorker) -> None:
    given = ("submit", "generate", "--model", model, "--prompt", "x", "--label", "batch=wait-7")
    ids = [service(*given).out.strip() for _ in range(2)]
    process = subprocess.Popen(
        [BAICHUAN, "wait", "--label", "batch=wait-7"],
        cwd=service.directory,
        env=service.variables(),
        stdout=subprocess.PIPE,
        text=True,
    )
    for job in ids:
        assert process.poll() is None
        worker.succeed(job, worker.begin(job), {})
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(line.split()[0] for line in out.splitlines()) == sorted(ids)


def test_wait_fails_with_a_cancelled_job(service: Shell, model: str, done: str) -> None:
    cancelled = queued(service, model)
    assert service("cancel", cancelled).code == 0
    waited = service("wait", done, cancelled)
    assert waited.code == ExitCode.FAILED
    assert waited.out.splitlines() == [f"{done}  generate  succeeded", f"{cancelled}  generate  cancelled"]
    assert service("wait", done).code == 0
    for wrong in ((), (done, "--label", "a=b"), ("--label", "a"), ("--label", "no=job")):
        assert service("wait", *wrong).code == ExitCode.USAGE


def test_a_terminal_shows_progress_loss_and_speed(service: Shell, model: str, worker: HandWorker) -> None:
    job = queued(service, model)
    attempt = worker.begin(job)
    worker.report(attempt, 0.6, METRICS)
    main, side = pty.openpty()
    process = subprocess.Popen(
        [BAICHUAN, "watch", job], cwd=service.directory, env=service.variables(), stdout=side, stderr=side
    )
    os.close(side)
    shown: list[str] = []
    reader = threading.Thread(target=read_all, args=(main, shown))
    reader.start()
    deadline = time.monotonic() + 30
    while "812" not in "".join(shown) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.succeed(job, attempt, {})
    assert process.wait(30) == 0
    reader.join()
    text = "".join(shown)
    for part in (job, "running", "60%", "training", "loss 1.25", "tokens/s 812", "━", "succeeded", "100%"):
        assert part in text


def read_all(descriptor: int, shown: list[str]) -> None:
    """Collect the output to a terminal until its last writer has ended."""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        shown.append(piece.decode(errors="replace"))
    os.close(descriptor)


def test_submit_and_watch_in_a_pipe(service: Shell, model: str, worker: HandWorker) -> None:
    command = [BAICHUAN, "submit", "generate", "--model", model, "--prompt", "x", "--watch", "--json"]
    process = subprocess.Popen(
        command, cwd=service.directory, env=service.variables(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process.stdout as lines:
        job = json.loads(lines.readline())
        assert job["state"] == "queued"
        worker.succeed(job["id"], worker.begin(job["id"]), {})
        states = [json.loads(line)["state"] for line in lines]
    assert states[-1] == "succeeded"
    assert process.wait() == 0


def test_artifacts_are_downloaded_and_checked(service: Shell, done: str) -> None:
    listed = json.loads(service("artifacts", done, "--json").out)["data"]
    assert {item["path"]: item["sha256"] for item in listed} == {
        path: sha256(content).hexdigest() for path, content in FILES.items()
    }
    fetched = service("artifacts", done, "--download", "here")
    assert fetched.code == 0, fetched.err
    assert sorted(fetched.out.splitlines()) == sorted(f"here/{path}" for path in FILES)
    for path, content in FILES.items():
        assert (service.directory / "here" / path).read_bytes() == content
    one = service("artifacts", done, "--download", "there", "--only", "model/")
    assert one.out == "there/model/large file.bin\n"
    assert "1.2 MiB" in service("artifacts", done).out


def test_a_download_to_where_it_cannot_be_written(service: Shell, done: str) -> None:
    (service.directory / "a file").write_text("mine")
    existing = service("artifacts", done, "--download", "a file")
    assert (existing.code, existing.out) == (ExitCode.USAGE, "")
    assert "is a file" in existing.err
    below = service("artifacts", done, "--download", "a file/below")
    assert (below.code, below.out) == (ExitCode.FAILED, "")
    assert below.err.startswith("error: cannot write a file/below")
    assert below.err.count("\n") == 1
    (service.directory / "taken/completions.jsonl").mkdir(parents=True)
    taken = service("artifacts", done, "--download", "taken", "--only", "completions")
    assert (taken.code, taken.err.count("\n")) == (ExitCode.FAILED, 1)
    assert (service.directory / "a file").read_text() == "mine"


def test_a_download_goes_on_where_it_stopped(service: Shell, done: str) -> None:
    part = service.directory / "resumed/model/large file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(LARGE[:1_000_000])
    assert service("artifacts", done, "--download", "resumed").code == 0
    assert part.with_suffix("").read_bytes() == LARGE
    part.with_suffix("").unlink()
    part.write_bytes(b"\xff" * 1_000_000)  # its beginning was not kept, so the hash differs
    wrong = service("artifacts", done, "--download", "resumed")
    assert wrong.code == ExitCode.FAILED
    assert "instead of" in wrong.err
    assert not part.exists()
    assert service("artifacts", done, "--download", "resumed").code == 0
    assert part.with_suffix("").read_bytes() == LARGE


@pytest.mark.parametrize("path", ["../secret", "/etc/secret", ""])
def test_no_path_escapes_the_chosen_directory(tmp_path: Path, path: str) -> None:
    artifact = {"job_id": "job-1", "path": path, "bytes": 1, "sha256": "0"}
    with (
        Client(Endpoint("http://127.0.0.1:9", "x")) as client,
        pytest.raises(CommandError, match="nothing was written"),
    ):
        download(client, artifact, tmp_path / "here")


def test_jobs_models_and_files_are_deleted(service: Shell, model: str, done: str) -> None:
    waiting = queued(service, model)
    refused = service("delete", done, waiting)
    assert refused.code != 0
    assert f"{waiting}: " in refused.err
    assert "cancel it first" in refused.err
    assert f"deleted {done}" in refused.err
    assert service("show", done).code == ExitCode.REFUSED
    assert f"model '{model}' is used by jobs" in service("models", "delete", model).err
    service("cancel", waiting)
    assert service("delete", waiting).code == 0
    unknown = service("models", "delete", "no/such")
    assert unknown.code == ExitCode.REFUSED
    assert "'no/such'" in unknown.err
