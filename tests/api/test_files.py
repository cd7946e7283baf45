"""Uploads are streamed and bounded, and leave nothing behind when they fail."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.uploads import sanitize_filename
from tests.api.conftest import Api, problem_of, serving, small

BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nprompts\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="p.jsonl"\r\n\r\n'
).encode()
EXPIRING = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="expires_after[anchor]"\r\n\r\n%b\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="expires_after[seconds]"\r\n\r\n%b\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def upload(api: Api, content: bytes, name: str = "p.jsonl", purpose: str = "prompts") -> httpx.Response:
    """Upload as ordinary clients do."""
    return api.client.post("/v1/files", data={"purpose": purpose}, files={"file": (name, content)})


def left_behind(api: Api) -> list[Path]:
    """Return the files in the store, including partial uploads, after the leader has processed the deletions."""
    api.clean()
    return [path for path in Path(api.settings.effective_artifact_root).rglob("*") if path.is_file()]


def test_a_job_cannot_use_a_file_whose_check_failed(api: Api) -> None:
    api.register_model()
    file = upload(api, b"prompt,completion\nhi,yo\n", "a.jsonl", "fine-tune").json()
    assert file["status"] == "error"
    spec = {"kind": "finetune", "model": "base", "training_file": file["id"]}
    for address in ("/v1/jobs", "/v1/jobs?dry_run=true"):
        problem = problem_of(api.client.post(address, json=spec), 422, "invalid_request")
        assert problem["error"]["param"] == "training_file"
        assert "line 1" in problem["detail"]


def test_a_file_is_downloaded_unchanged(either_api: Api) -> None:
    api = either_api
    content = os.urandom(2_500_000) + b"\r\n--" + BOUNDARY.encode()
    file = upload(api, content, purpose="fine-tune").json()
    assert (file["object"], file["bytes"], file["filename"]) == ("file", len(content), "p.jsonl")
    assert (file["purpose"], file["status"]) == ("fine-tune", "error")  # random bytes are not training data
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert api.client.get(f"/v1/files/{file['id']}").json() == file
    assert api.client.get("/v1/files?purpose=fine-tune").json()["data"] == [file]
    assert api.client.get("/v1/files?purpose=batch").json()["data"] == []
    whole = api.client.get(f"/v1/files/{file['id']}/content")
    assert (whole.content, whole.headers["ETag"]) == (content, f'"{file["sha256"]}"')
    part = api.client.get(f"/v1/files/{file['id']}/content", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, content[5:10])
    gone = api.client.delete(f"/v1/files/{file['id']}").json()
    assert gone == {"id": file["id"], "object": "file", "deleted": True}
    problem_of(api.client.get(f"/v1/files/{file['id']}/content"), 404, "not_found")
    problem_of(api.client.delete(f"/v1/files/{file['id']}"), 404, "not_found")
    assert left_behind(api) == []


def test_a_declared_size_that_is_too_large_is_rejected_without_reading(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2]))) as connection:
        lines = ["POST /v1/files HTTP/1.1", "Host: x", f"Content-Type: {FORM['Content-Type']}"]
        lines += [f"Authorization: {api.client.headers['Authorization']}", "Content-Length: 5000000000", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_an_undeclared_size_is_checked_during_the_upload(api: Api) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield HEAD
        while sent < 100 * api.settings.max_upload_bytes:
            sent += 65_536
            yield bytes(65_536)

    answer = api.client.post("/v1/files", content=endless(), headers=FORM)
    problem = problem_of(answer, 413, "too_large")
    assert problem["error"]["param"] == "file"
    assert "BAICHUAN_MAX_UPLOAD_BYTES" in problem["detail"]
    assert left_behind(api) == []


def test_the_limit_is_exact(api: Api) -> None:
    limit = api.settings.max_upload_bytes
    assert upload(api, bytes(limit)).status_code == 200
    problem_of(upload(api, bytes(limit + 1)), 413, "too_large")
    assert len(left_behind(api)) == 1


@pytest.mark.parametrize("announced", [True, False])
def test_a_full_disk(tmp_path: Path, announced: bool) -> None:
    with serving(small(tmp_path / "home", free_space_reserve_bytes=2**60)) as api:
        body = HEAD + b"{}" + TAIL
        answer = api.client.post("/v1/files", content=body if announced else iter([body]), headers=FORM)
        assert "delete files" in problem_of(answer, 507, "insufficient_storage")["detail"]
        assert left_behind(api) == []


def test_a_client_that_goes_away_leaves_nothing(api: Api) -> None:
    gone = threading.Event()
    arriving: list[Path] = []

    def half() -> Iterator[bytes]:
        yield HEAD
        for _ in range(24):
            yield bytes(65_536)
        while not arriving:
            arriving.extend(left_behind(api))
            time.sleep(0.01)
        gone.set()
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        api.client.post("/v1/files", content=half(), headers=FORM)
    assert gone.is_set()
    while left_behind(api):  # wait until the server has noticed; the test's time limit is the deadline
        time.sleep(0.01)
    assert api.client.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "param", "remedy"),
    [
        (HEAD, None, "ends too early"),
        (HEAD + b"{}", None, "ends too early"),
        (b"no form", None, "cannot be read"),
        (b"", None, "ends too early"),
        (HEAD.replace(b"prompts", b"fun") + TAIL, "purpose", "must be one of fine-tune, prompts"),
        (HEAD.replace(b"prompts", b"p" * 999) + TAIL, "purpose", "at most 256"),
        (HEAD.replace(b'"purpose"', b'"porpoise"') + TAIL, "porpoise", "the form has the fields expires_after[anchor]"),
        (HEAD.replace(b'name="file"', b'name="fill"') + TAIL, "fill", "the form has the fields expires_after[anchor]"),
        (HEAD[: HEAD.rindex(b"--")] + b"--" + BOUNDARY.encode() + b"--\r\n", "file", "named file"),
        (HEAD + b"1\r\n" + HEAD[HEAD.rindex(b"--" + BOUNDARY.encode()) :] + TAIL, "file", "one file"),
        (HEAD[: HEAD.index(b"--", 2)] * 2 + HEAD + TAIL, "purpose", "appears twice"),
        (EXPIRING % (b"created_at", b"60") + HEAD + TAIL, "expires_after[seconds]", "from 3600 to 2592000"),
        (EXPIRING % (b"created_at", b"1e4") + HEAD + TAIL, "expires_after[seconds]", "from 3600 to 2592000"),
        (EXPIRING % (b"now", b"3600") + HEAD + TAIL, "expires_after[anchor]", "must be created_at"),
        (HEAD.replace(b"p.jsonl", b"x" * 5000) + TAIL, None, "header size"),
    ],
)
def test_invalid_forms(shared_api: Api, body: bytes, param: str | None, remedy: str) -> None:
    answer = shared_api.client.post("/v1/files", content=body, headers=FORM)
    problem = problem_of(answer, 400, "invalid_request")
    assert problem["error"]["param"] == param
    assert remedy in problem["detail"]
    assert left_behind(shared_api) == []


@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 999]
)
def test_bodies_that_are_not_forms(shared_api: Api, kind: str) -> None:
    answer = shared_api.client.post("/v1/files", content=b"{}", headers={"Content-Type": kind})
    assert "multipart" in problem_of(answer, 400, "invalid_request")["detail"]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 300))
def test_no_body_causes_a_server_error(shared_api: Api, noise: bytes, cut: int) -> None:
    whole = HEAD + noise + TAIL
    for body in (noise, whole[:cut], whole[cut:], whole):
        answer = shared_api.client.post("/v1/files", content=body, headers=FORM)
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            shared_api.client.delete(f"/v1/files/{answer.json()['id']}")


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\train.jsonl", "train.jsonl"),
        ("训练 数据.json", "训练 数据.json"),
        ("a\u202egnp.exe", "agnp.exe"),
        ("..", "upload"),
        ("", "upload"),
        ("x" * 300 + ".json", "x" * 250 + ".json"),
    ],
)
def test_names_of_files_are_made_harmless(shared_api: Api, given_name: str, kept: str) -> None:
    file = upload(shared_api, b"{}", name=given_name).json()
    assert file["filename"] == kept
    shared_api.client.delete(f"/v1/files/{file['id']}")


@pytest.mark.parametrize("name", [b'filename="a\0b.jsonl"', b'filename="a%00.jsonl"', b"filename*=UTF-8''a%00b"])
def test_a_name_with_a_nul_is_refused(shared_api: Api, name: bytes) -> None:
    body = HEAD.replace(b'filename="p.jsonl"', name) + b"{}" + TAIL
    problem = problem_of(shared_api.client.post("/v1/files", content=body, headers=FORM), 400, "invalid_request")
    assert problem["error"]["param"] == "file"
    assert "NUL character" in problem["detail"]
    announced = {"bytes": 1, "filename": "a\0b", "mime_type": "text/plain", "purpose": "batch"}
    problem = problem_of(shared_api.client.post("/v1/uploads", json=announced), 400, "invalid_request")
    assert problem["error"]["param"] == "filename"


@given(st.text())
def test_no_file_name_escapes_the_store(name: str) -> None:
    kept = sanitize_filename(name)
    assert kept
    assert len(kept) <= 255
    assert kept not in (".", "..")
    assert not set(kept) & set("/\\\0\n\r")
    assert sanitize_filename(kept) == kept


def test_a_store_that_cannot_be_written_is_an_outage_with_a_remedy(api: Api) -> None:
    store = Path(api.settings.effective_artifact_root)
    incoming = store / "incoming"
    incoming.write_bytes(b"")  # tests run as root, for whom permissions do not apply
    answer = upload(api, b"{}")
    assert "cannot write to the artifact store" in problem_of(answer, 503, "storage_unavailable")["detail"]
    assert answer.headers["Retry-After"]
    incoming.unlink()
    (store / "files").write_bytes(b"")
    problem_of(upload(api, b"{}"), 503, "storage_unavailable")
    (store / "files").unlink()
    assert upload(api, b"{}").status_code == 200
    assert len(left_behind(api)) == 1


def test_a_form_has_each_field_once(api: Api) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += len(HEAD)
            yield HEAD[: HEAD.index(b"--", 2)]

    problem_of(api.client.post("/v1/files", content=endless(), headers=FORM), 400, "invalid_request")


def test_a_row_that_cannot_be_written_leaves_no_bytes(api: Api) -> None:
    with api.database.writing() as connection:
        connection.exec_driver_sql("CREATE TRIGGER full BEFORE INSERT ON files BEGIN SELECT RAISE(ABORT, 'full'); END")
    problem: dict[str, Any] = upload(api, b"{}").json()
    assert problem["status"] >= 500
    assert left_behind(api) == []


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ("filename*=UTF-8''%E4%BD%A0%E5%A5%BD.jsonl", "你好.jsonl"),
        ("filename*=ISO-8859-1'en'%A3.jsonl", "£.jsonl"),
        ("filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("filename=plain.jsonl; filename*=UTF-8''other.jsonl", "plain.jsonl"),
        ("filename*=no-such-charset''%41.jsonl", "A.jsonl"),
        ("filename*=", "upload"),
    ],
)
def test_an_extended_filename_counts_if_there_is_no_plain_one(shared_api: Api, parameters: str, kept: str) -> None:
    body = HEAD.replace(b'filename="p.jsonl"', parameters.encode()) + b"{}" + TAIL
    answer = shared_api.client.post("/v1/files", content=body, headers=FORM)
    assert answer.status_code in (200, 201), answer.text
    assert answer.json()["filename"] == kept
    assert shared_api.client.delete(f"/v1/files/{answer.json()['id']}").is_success
