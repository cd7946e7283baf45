"""`client.files`, `client.uploads` and `client.models`."""

import hashlib
import os
from pathlib import Path

import openai
import pytest
import sqlalchemy as sa

from tests.api.conftest import Api
from tests.api.openai.conftest import EXAMPLES, client_of, lines, request_line

ANNOUNCED = {"filename": "p.jsonl", "mime_type": "text/jsonl", "purpose": "prompts"}


def test_files_are_checked_by_their_purpose(client: openai.OpenAI) -> None:
    good = client.files.create(file=lines(EXAMPLES), purpose="fine-tune")
    assert client.files.wait_for_processing(good.id).status == "processed"
    bad = client.files.create(file=lines([*EXAMPLES, {"messages": []}]), purpose="fine-tune")
    found = client.files.wait_for_processing(bad.id)
    assert found.status == "error"
    assert found.status_details == "line 4: 'messages' must be a list of turns with 'role' and 'content'"
    batch = client.files.create(file=lines([request_line("a"), request_line("b", tools=[1])]), purpose="batch")
    assert (batch.status, batch.status_details) == (
        "error",
        "line 2: body.tools is not supported here, except for []; leave it out",
    )
    assert client.files.create(file=b"\xff\x00", purpose="user_data").status == "processed"


def test_the_name_of_a_file_decides_whether_it_may_be_plain_text(client: openai.OpenAI) -> None:
    texts = {name: client.files.create(file=(name, b"Hello"), purpose="fine-tune") for name in ("a.txt", "a.jsonl")}
    assert [file.status for file in texts.values()] == ["processed", "error"]
    details = texts["a.jsonl"].status_details or ""
    assert details.startswith("line 1: is not JSON: ")
    assert details.endswith("; to train on plain text, give the file a name that ends in .txt")
    upload = client.uploads.create(bytes=5, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    part = client.uploads.parts.create(upload.id, data=b"Hello")
    done = client.uploads.complete(upload.id, part_ids=[part.id])
    assert done.file is not None
    assert done.file.status_details == details


def test_a_reason_can_quote_a_key_with_an_unpaired_surrogate(client: openai.OpenAI) -> None:
    found = client.files.create(file=rb'{"\ud800\u0000": 1}', purpose="batch")
    assert (found.status_details or "").startswith(r"line 1: \ud800\x00 is not a known key")


def test_prompts_are_checked_however_they_arrive(api: Api) -> None:
    good, bad = lines([{"prompt": "a"}, request_line("b")]), lines([{"prompt": "a"}, {"prompt": 1}])
    reason = "line 2: prompt must be a non-empty string"
    with client_of(api, strict=False) as client:
        for content, found in ((good, ("processed", None)), (bad, ("error", reason))):
            file = {"file": ("p.jsonl", content)}
            stored = api.client.post("/v1/files", data={"purpose": "prompts"}, files=file).json()
            assert (stored["status"], stored["status_details"], stored["purpose"]) == (*found, "user_data")
            made = api.client.post("/v1/uploads", json={**ANNOUNCED, "bytes": len(content)}).json()
            assert made["purpose"] == "user_data"
            part = client.uploads.parts.create(made["id"], data=content)
            done = client.uploads.complete(made["id"], part_ids=[part.id])
            assert done.file is not None
            assert (done.file.status, done.file.status_details, done.file.purpose) == (*found, "user_data")


def test_artifacts_are_files(client: openai.OpenAI, api: Api) -> None:
    job = api.submit(output_model="small")["id"]
    api.finish(job, api.start(job), {"report.json": b"{}", "model/config.json": b"[]"})
    uploaded = client.files.create(file=b"x", purpose="user_data")
    files = {file.filename: file for file in client.files.list()}
    report = files["report.json"]
    assert (report.bytes, report.purpose, report.status) == (2, "user_data", "processed")
    assert report.model_extra is not None
    assert report.model_extra["job_id"] == job
    assert client.files.retrieve(report.id) == report
    assert client.files.content(report.id).text == "{}"
    newest_first = [
        uploaded.id,
        *sorted((files[name].id for name in ("report.json", "model/config.json")), reverse=True),
    ]
    assert [file.id for file in client.files.list(limit=1)] == newest_first
    assert [file.id for file in client.files.list(limit=1, order="asc")] == newest_first[::-1]
    assert len([file.id for file in client.files.list(purpose="user_data")]) == 3
    with pytest.raises(openai.ConflictError, match="belongs to model 'small'"):
        client.files.delete(files["model/config.json"].id)
    assert client.files.delete(report.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(report.id)
    with api.new_key("others") as others:
        assert others.get(f"/v1/files/{files['model/config.json'].id}").status_code == 404


def test_an_artifact_can_be_the_input_of_a_job_and_is_kept_for_it(client: openai.OpenAI, api: Api) -> None:
    maker = api.submit()["id"]
    api.finish(maker, api.start(maker), {"data.jsonl": lines(EXAMPLES)})
    made = next(file for file in client.files.list() if file.filename == "data.jsonl")
    job = client.fine_tuning.jobs.create(model="base", training_file=made.id)
    assert job.training_file == made.id
    with pytest.raises(openai.ConflictError, match=f"is used by {job.id}"):
        client.files.delete(made.id)
    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(made.id).deleted


def test_uploads(client: openai.OpenAI, api: Api) -> None:
    content = os.urandom(10_000) + lines(EXAMPLES)
    upload = client.uploads.create(bytes=len(content), filename="a/b.bin", mime_type="text/jsonl", purpose="user_data")
    assert (upload.status, upload.filename, upload.expires_at - upload.created_at) == ("pending", "b.bin", 3600)
    second = client.uploads.parts.create(upload.id, data=content[4000:])
    first = client.uploads.parts.create(upload.id, data=content[:4000])
    assert first.upload_id == upload.id
    with pytest.raises(openai.BadRequestError, match="the parts have 4000 bytes") as short:
        client.uploads.complete(upload.id, part_ids=[first.id])
    assert short.value.param == "part_ids"
    with pytest.raises(openai.BadRequestError, match="have the MD5"):
        client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5="0" * 32)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=md5)
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == content
    assert client.uploads.complete(upload.id, part_ids=[first.id, second.id]).file == done.file
    assert [file.id for file in client.files.list()] == [done.file.id]
    with pytest.raises(openai.ConflictError, match="is completed"):
        client.uploads.parts.create(upload.id, data=b"x")
    with pytest.raises(openai.ConflictError, match="is completed"):
        client.uploads.cancel(upload.id)
    api.clean()
    assert not [path for path in (Path(api.settings.effective_artifact_root) / "uploads").rglob("*") if path.is_file()]


def test_uploads_in_chunks_are_checked_too(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines([*EXAMPLES, {"messages": 1}]))
    done = client.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=50)
    assert done.file is not None
    assert done.file.status == "error"
    assert (done.file.status_details or "").startswith("line 4:")


def test_failed_and_cancelled_uploads(client: openai.OpenAI, api: Api) -> None:
    upload = client.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="batch")
    client.uploads.parts.create(upload.id, data=b"abc")
    assert client.uploads.cancel(upload.id).status == "cancelled"
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="is cancelled"):
        client.uploads.complete(upload.id, part_ids=[])
    late = client.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="batch")
    part = client.uploads.parts.create(late.id, data=b"abc")
    with api.database.writing() as connection:
        connection.execute(sa.text("UPDATE uploads SET expires_at = 1"))
        connection.execute(sa.text("UPDATE deletions SET not_before = 1"))
    with pytest.raises(openai.ConflictError, match="is expired"):
        client.uploads.complete(late.id, part_ids=[part.id])
    api.clean()
    assert not [path for path in (Path(api.settings.effective_artifact_root) / "uploads").rglob("*") if path.is_file()]
    with pytest.raises(openai.APIStatusError) as large:
        client.uploads.create(bytes=10**12, filename="a", mime_type="text/plain", purpose="batch")
    assert (large.value.status_code, large.value.param) == (413, "bytes")
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel("upload-none")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.uploads.create(bytes=1, filename="a", mime_type="x", purpose="porpoise")  # type: ignore[arg-type] # the mistake
    assert wrong.value.param == "purpose"


def test_models(client: openai.OpenAI, api: Api) -> None:
    api.register_model("team/base")
    assert [model.id for model in client.models.list()] == ["base", "team/base"]
    model = client.models.retrieve("team/base")
    assert (model.object, model.owned_by) == ("model", "default")
    assert client.models.delete("team/base").deleted
    with pytest.raises(openai.NotFoundError):
        client.models.delete("team/base")
    api.submit()
    with pytest.raises(openai.ConflictError, match="is used by jobs"):
        client.models.delete("base")
    for number in range(30):
        api.register_model(f"m{number}")
    assert len(list(client.models.list())) == 31
