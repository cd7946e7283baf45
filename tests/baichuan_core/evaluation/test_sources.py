"""Directories and archives give the same files, and malicious or damaged archives are rejected."""

import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from baichuan_core import DatasetError
from baichuan_core.evaluation import sources
from baichuan_core.evaluation.sources import read_csv_files


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_is_read_like_its_directory(data: Path, tmp_path: Path, form: str) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "upload"), form, data / "mmlu"))
    nameless = archive.rename(tmp_path / "file-01")  # uploads are stored without a suffix
    assert read_csv_files(nameless) == read_csv_files(data / "mmlu")
    assert len(read_csv_files(nameless)) == 6


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def test_member_paths_cannot_escape(tmp_path: Path) -> None:
    archive = tar_of(
        tmp_path / "a", {"../../val/a.csv": b"1", "/val/b.csv": b"2", "val/._c.csv": b"3", "val/d.txt": b"4"}
    )
    assert read_csv_files(archive) == {"val/a.csv": b"1", "val/b.csv": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as file:
        link = tarfile.TarInfo("val/a.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    with pytest.raises(DatasetError, match="no CSV files in a folder named dev, val or test"):
        read_csv_files(tmp_path / "a")


def test_a_duplicate_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"contains val/a.csv twice"):
        read_csv_files(tar_of(tmp_path / "a", {"val/a.csv": b"1", "copy/val/a.csv": b"2"}))


def test_archive_bombs_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_READ_BYTES", 10_000)
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", 20_000)
    for members in (
        {"other": b"0" * 30_000},
        {"val/a.csv": b"0" * 10_001},
        {f"val/{n}.csv": b"0" * 5000 for n in "abc"},
    ):
        with pytest.raises(DatasetError, match=r"more than|larger than"):
            read_csv_files(tar_of(tmp_path / "a", members))
        with zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in {"val/x.csv": b"0" * 10_001, **members}.items():
                file.writestr(name, content)
        with pytest.raises(DatasetError, match=r"more than|larger than"):
            read_csv_files(tmp_path / "b")


@pytest.mark.parametrize("form", ["zip", "gztar", "xztar"])
def test_damaged_archives_are_rejected(data: Path, tmp_path: Path, form: str) -> None:
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), form, data / "ceval")).read_bytes()
    upload = tmp_path / "upload"
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:500] + b"\xff" * 1000 + whole[1500:]):
        upload.write_bytes(content)
        with pytest.raises(DatasetError, match=r"cannot be read|is not a directory or a valid"):
            read_csv_files(upload)


@pytest.mark.parametrize("compression", ["", "gz"])
def test_files_after_a_damaged_header_are_not_silently_skipped(tmp_path: Path, compression: str) -> None:
    content = bytearray(
        gzip.decompress(tar_of(tmp_path / "a", {f"val/{n}.csv": b"0" * 512 for n in "abc"}).read_bytes())
    )
    content[1024:1030] = b"\xff" * 6  # the header of b, which tarfile takes for the end of the archive
    (tmp_path / "b").write_bytes(gzip.compress(content) if compression else content)
    with pytest.raises(DatasetError, match="b is damaged"):
        read_csv_files(tmp_path / "b")


def test_a_missing_path_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere cannot be read"):
        read_csv_files(tmp_path / "nowhere")


def test_archives_and_names_made_on_windows_are_read(data: Path, tmp_path: Path) -> None:
    """Some Windows programs write backslashes between folders; unzipping such a file elsewhere keeps them in names."""
    files = {path.relative_to(data / "mmlu"): path.read_bytes() for path in (data / "mmlu").rglob("*.csv")}
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for path, content in files.items():
            archive.writestr("\\".join(("mmlu", *path.parts)), content)
    members = {"\\".join(path.parts): content for path, content in files.items()}
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    for name, content in members.items():
        (unpacked / name).write_bytes(content)
    expected = read_csv_files(data / "mmlu")
    for made in (tmp_path / "windows.zip", tar_of(tmp_path / "windows.tgz", members), unpacked):
        assert read_csv_files(made) == expected
