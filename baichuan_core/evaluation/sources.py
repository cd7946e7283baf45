"""The CSV files of a benchmark, from a directory or from the archive that it is published as.

Archives are read in place and nothing is extracted, so no name in one can lead anywhere.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from baichuan_core.errors import DatasetError

from .benchmarks import EXAMPLES

FOLDERS = (EXAMPLES, "val", "test")
# Far above what is published: MMLU's archive holds 166 MB, of which 8 are these files.
LARGEST_UNPACKED = 2 * 2**30
LARGEST_READ = 256 * 2**20
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


def read_csv_files(data: Path) -> dict[str, bytes]:
    """The contents of all CSV files in folders `dev`, `val` and `test`, by folder and name (`dev/law_dev.csv`).

    Args:
        data: A directory, or a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz file of one; its name does not matter.

    Raises:
        DatasetError: It is neither, is damaged or too large, holds a file twice, or holds no such file.
    """
    found: dict[str, bytes] = {}
    size = 0
    for name, content in _members(data):
        if name in found:
            raise DatasetError(f"{data.name} holds {name} in two places: keep one copy of the benchmark in it")
        size += len(content)
        if size > LARGEST_READ:
            raise DatasetError(f"the CSV files of {data.name} are larger than {LARGEST_READ} bytes: leave others out")
        found[name] = content
    if not found:
        raise DatasetError(f"{data.name} has no CSV file in a folder dev, val or test: give the benchmark as published")
    return found


def _members(data: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if data.is_dir():
            yield from _in_directory(data)
        elif zipfile.is_zipfile(data):
            yield from _in_zip(data)
        else:
            yield from _in_tar(data)
    except tarfile.ReadError as error:
        message = f"{data.name} is no directory, .zip or .tar file, or a damaged one: give the published archive"
        raise DatasetError(message) from error
    except _DAMAGED as error:
        raise DatasetError(f"{data.name} cannot be read ({error}): copy or upload it again") from error
    except RuntimeError as error:  # an unknown compression, a password
        raise DatasetError(f"{data.name} cannot be unpacked ({error}): pack it as a plain .zip or .tar.gz") from error


def _in_directory(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(directory.rglob("*.csv")):
        if (name := _wanted(path.relative_to(directory).as_posix())) and path.is_file():
            yield name, path.read_bytes()


def _in_zip(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if name := _wanted(member.filename):
                _require_small(member.file_size, archive, LARGEST_READ)
                with file.open(member) as content:
                    yield name, content.read(LARGEST_READ + 1)  # whatever size it announces


def _in_tar(archive: Path) -> Iterator[tuple[str, bytes]]:
    unpacked = 0
    with tarfile.open(archive) as file:
        for member in file:
            unpacked += member.size
            _require_small(unpacked, archive, LARGEST_UNPACKED)
            if (name := _wanted(member.name)) and member.isreg():
                _require_small(member.size, archive, LARGEST_READ)
                content = file.extractfile(member)
                yield name, content.read() if content else b""
        _require_end(file, archive, LARGEST_UNPACKED - unpacked)


def _require_end(file: tarfile.TarFile, archive: Path, limit: int) -> None:
    """tarfile takes a damaged header for the end, and does not look at the checksum of what is compressed."""
    file.fileobj.seek(file.offset)
    size = 0
    while rest := file.fileobj.read(2**20):
        size += len(rest)
        _require_small(size, archive, limit)
        if rest.strip(b"\0"):
            raise DatasetError(f"{archive.name} is damaged: copy or upload it again")


def _wanted(path: str) -> str | None:
    """Return `folder/name.csv` if the file belongs to a benchmark; files that macOS adds do not.

    Archives made on Windows may separate folders by backslashes, and unpacking one elsewhere keeps them in file names.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if len(parts) <= 1 or parts[-2] not in FOLDERS or not parts[-1].endswith(".csv") or parts[-1].startswith("._"):
        return None
    return f"{parts[-2]}/{parts[-1]}"


def _require_small(size: int, archive: Path, limit: int) -> None:
    if size > limit:
        raise DatasetError(f"{archive.name} unpacks to more than {limit} bytes: give the benchmark's files alone")
