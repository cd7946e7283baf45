"""Uploads and downloads through the sync client."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from baichuan_client import ApiError, Client, DownloadError, Job
from baichuan_client.transfers import place

LARGE = bytes(range(256)) * 10_000
FILES = {"completions.jsonl": b"{}\n", "model/large file.bin": LARGE, "empty": b""}
Finish = Callable[[Mapping[str, bytes]], Job]


def test_a_download_reports_its_progress(finish: Finish, tmp_path: Path) -> None:
    job = finish(FILES)
    assert {artifact.path: artifact.sha256 for artifact in job.artifacts()} == {
        path: sha256(content).hexdigest() for path, content in FILES.items()
    }
    steps: list[tuple[int, int]] = []
    target = tmp_path / "new folder/large"
    assert (
        job.download("model/large file.bin", target, progress=lambda done, size: steps.append((done, size))) == target
    )
    assert target.read_bytes() == LARGE
    assert steps == sorted(steps)
    assert steps[-1] == (len(LARGE), len(LARGE))
    assert [path.name for path in target.parent.iterdir()] == ["large"]
    steps.clear()
    job.download("model/large file.bin", target, progress=lambda done, size: steps.append((done, size)))
    assert steps == []  # it was complete


def test_a_download_into_a_directory_keeps_the_path(finish: Finish, tmp_path: Path) -> None:
    job = finish(FILES)
    for path, content in FILES.items():
        assert job.download(path, tmp_path) == tmp_path / path
        assert (tmp_path / path).read_bytes() == content


def test_a_download_resumes_and_a_wrong_part_is_found(finish: Finish, tmp_path: Path) -> None:
    job = finish(FILES)
    target, part = tmp_path / "large", tmp_path / "large.part"
    part.write_bytes(LARGE[:2_000_000])
    steps: list[int] = []
    job.download("model/large file.bin", target, progress=lambda done, _: steps.append(done))
    assert min(steps) > 2_000_000
    assert target.read_bytes() == LARGE
    target.unlink()
    part.write_bytes(b"\xff" * 1_000_000)
    with pytest.raises(DownloadError, match="instead of"):
        job.download("model/large file.bin", target)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_artifact(finish: Finish, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"has no artifact 'x'; it has a\.txt"):
        finish({"a.txt": b"a"}).download("x", tmp_path)


@pytest.mark.parametrize("path", ["../secret", "/etc/secret", ""])
def test_no_path_leads_out_of_a_directory(tmp_path: Path, path: str) -> None:
    with pytest.raises(DownloadError, match="nothing was written"):
        place(tmp_path, path)


def test_an_upload_reports_its_progress(client: Client, data_file: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    file = client.files.upload(data_file, "fine-tune", progress=lambda done, size: steps.append((done, size)))
    size = data_file.stat().st_size
    assert (file.bytes, file.filename, file.status) == (size, "train.jsonl", "processed")
    assert len(steps) > 1
    assert steps == sorted(steps)
    assert steps[-1] == (size, size)
    assert client.files.get(file.id) == file
    assert file in list(client.files.list(purpose="fine-tune"))
    copy = client.files.download(file.id, tmp_path / "copy")
    assert copy.read_bytes() == data_file.read_bytes()
    client.files.delete(file.id)
    with pytest.raises(ApiError):
        client.files.get(file.id)


def test_an_upload_of_something_else_than_a_file(client: Client, tmp_path: Path) -> None:
    for path, reason in (
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "x", "No such"),
    ):
        with pytest.raises(OSError, match=reason):
            client.files.upload(path, "batch")
