"""Reads the CSV files of a benchmark from a directory or from the published archive.

Archives are read in place: nothing is extracted, so no member can be written outside a folder.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from baichuan_core.errors import DatasetError

from .benchmarks import EXAMPLES_FOLDER

SPLIT_FOLDERS = (EXAMPLES_FOLDER, "val", "test")
# Limits in bytes, far above the published sizes: MMLU's archive unpacks to 166 MB, of which we read 8 MB of CSV files.
MAX_UNPACKED_BYTES = 2 * 2**30
MAX_READ_BYTES = 256 * 2**20
DAMAGED_ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


def read_csv_files(data: Path) -> dict[str, bytes]:
    """Read all CSV files in the folders `dev`, `val` and `test`, keyed by folder and name (`dev/law_dev.csv`).

    Args:
        data: A directory, or a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz archive of one, whatever its file name.

    Raises:
        DatasetError: The data has an unsupported type, is damaged or too large, contains a file twice, or has no CSV
            files.
    """
    found: dict[str, bytes] = {}
    size = 0
    for name, content in _read_members(data):
        if name in found:
            raise DatasetError(f"{data.name} contains {name} twice: keep one copy of the benchmark")
        size += len(content)
        if size > MAX_READ_BYTES:
            raise DatasetError(
                f"the CSV files of {data.name} are larger than {MAX_READ_BYTES} bytes in total: "
                "remove files that do not belong to the benchmark"
            )
        found[name] = content
    if not found:
        raise DatasetError(
            f"{data.name} has no CSV files in a folder named dev, val or test: use the benchmark's published layout"
        )
    return found


def _read_members(data: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if data.is_dir():
            yield from _read_directory(data)
        elif zipfile.is_zipfile(data):
            yield from _read_zip(data)
        else:
            yield from _read_tar(data)
    except tarfile.ReadError as error:
        message = f"{data.name} is not a directory or a valid .zip or .tar file: use the published archive"
        raise DatasetError(message) from error
    except DAMAGED_ARCHIVE_ERRORS as error:
        raise DatasetError(f"{data.name} cannot be read ({error}): copy or upload it again") from error
    except RuntimeError as error:  # the compression method is unknown, or the archive is password-protected
        raise DatasetError(f"{data.name} cannot be unpacked ({error}): pack it as a plain .zip or .tar.gz") from error


def _read_directory(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(directory.rglob("*.csv")):
        if (name := _get_benchmark_path(path.relative_to(directory).as_posix())) and path.is_file():
            yield name, path.read_bytes()


def _read_zip(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if name := _get_benchmark_path(member.filename):
                _require_max_size(member.file_size, archive, MAX_READ_BYTES)
                with file.open(member) as content:
                    yield name, content.read(MAX_READ_BYTES + 1)  # the size in the header may be wrong


def _read_tar(archive: Path) -> Iterator[tuple[str, bytes]]:
    unpacked = 0
    with tarfile.open(archive) as file:
        for member in file:
            unpacked += member.size
            _require_max_size(unpacked, archive, MAX_UNPACKED_BYTES)
            if (name := _get_benchmark_path(member.name)) and member.isreg():
                _require_max_size(member.size, archive, MAX_READ_BYTES)
                content = file.extractfile(member)
                yield name, content.read() if content else b""
        _check_archive_is_complete(file, archive, MAX_UNPACKED_BYTES - unpacked)


def _check_archive_is_complete(file: tarfile.TarFile, archive: Path, limit: int) -> None:
    """Read the archive to its end, and check that only zeros follow the last member.

    `tarfile` mistakes a damaged header for the end of the archive, and does not read far enough to verify the checksum
    of the compressed data.
    """
    file.fileobj.seek(file.offset)
    size = 0
    while rest := file.fileobj.read(2**20):
        size += len(rest)
        _require_max_size(size, archive, limit)
        if rest.strip(b"\0"):
            raise DatasetError(f"{archive.name} is damaged: copy or upload it again")


def _get_benchmark_path(path: str) -> str | None:
    """Return `folder/name.csv` if the path belongs to a benchmark, else None (also for files added by macOS).

    Archives made on Windows may separate folders with backslashes, which other systems keep in file names.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if (
        len(parts) <= 1
        or parts[-2] not in SPLIT_FOLDERS
        or not parts[-1].endswith(".csv")
        or parts[-1].startswith("._")
    ):
        return None
    return f"{parts[-2]}/{parts[-1]}"


def _require_max_size(size: int, archive: Path, limit: int) -> None:
    if size > limit:
        raise DatasetError(f"{archive.name} unpacks to more than {limit} bytes: keep only the benchmark's files in it")
