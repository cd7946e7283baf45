"""Downloads files from a hub and names them after their hashes, so that a later run can continue the downloads."""

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from baichuan_core.errors import HubError, HubUnreachableError, InsufficientSpaceError

from .client import ContentStream, Hub, RemoteFile, Repository
from .digests import Hasher

PARTIAL_SUFFIX = ".part"
MAX_CONSECUTIVE_FAILURES = 6  # consecutive attempts without a new byte before the hub is considered unreachable
FIRST_RETRY_DELAY_SECONDS = 1.0  # doubled after each consecutive failure, for a total of about a minute


class Downloader:
    """Downloader that names files after their hashes, with the suffix `.part` until they are complete.

    Complete files have been checked, no matter which run downloaded them.

    Args:
        hub: Where the files come from.
        repository: The repository of the files.
        folder: Existing folder to download into.
        earlier: Folders of earlier runs, whose complete files are used and whose incomplete files are continued.
        on_bytes: Called with the number of bytes that have arrived, or with a negative number if bytes are unusable.
    """

    def __init__(
        self,
        hub: Hub,
        repository: Repository,
        folder: Path,
        earlier: Sequence[Path],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._hub = hub
        self._repository = repository
        self._folder = folder
        self._folders = (folder, *earlier)
        self._on_bytes = on_bytes

    def count_present_bytes(self, files: Iterable[RemoteFile]) -> int:
        """Return the number of bytes of these files that are already on this machine."""
        return sum(self._count_present_bytes(file) for file in files)

    def fetch(self, file: RemoteFile) -> Path:
        """Download the missing part of a file, if any, and return the path of the complete file.

        Raises:
            HubError: The hub refuses the file, or sends content that does not match the announced hash.
            HubUnreachableError: The connection is lost too often; a later call continues.
            InsufficientSpaceError: The disk is full.
        """
        name = _make_file_name(file)
        if complete := _find_file(self._folders, name):
            return complete
        part = self._adopt_partial_file(name)
        was_begun = part.exists()
        try:
            intact = self._complete_file(file, part)
            if not intact and was_begun:  # the part from an earlier run may be damaged
                self._on_bytes(-part.stat().st_size)
                part.unlink()
                intact = self._complete_file(file, part)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = f"the disk of {self._folder} is full: delete files you no longer need; a retry continues here"
            raise InsufficientSpaceError(message) from error
        if not intact:
            part.unlink()
            raise HubError(
                f"{self._hub.endpoint} sent content for {file.path} of {self._repository.name} that differs from what "
                f"it announced ({file.digest.algorithm} {file.digest.value}, {file.size} bytes): set HF_ENDPOINT to "
                "another mirror, or retry later"
            )
        return part.rename(self._folder / name)

    def _count_present_bytes(self, file: RemoteFile) -> int:
        if _find_file(self._folders, _make_file_name(file)):
            return file.size
        part = _find_file(self._folders, _make_file_name(file) + PARTIAL_SUFFIX)
        return min(part.stat().st_size, file.size) if part else 0

    def _adopt_partial_file(self, name: str) -> Path:
        """Move an earlier run's incomplete file, if any, to this run's folder; return its path there."""
        part = self._folder / (name + PARTIAL_SUFFIX)
        found = _find_file(self._folders, part.name)
        if found and found != part:
            with suppress(FileNotFoundError):
                found.rename(part)
        return part

    def _complete_file(self, file: RemoteFile, part: Path) -> bool:
        """Download the missing part of an incomplete file; return whether its content is correct."""
        hasher = file.digest.create_hasher(file.size)
        with part.open("a+b") as output:
            hasher.update_from_file(output)
            failures, most = 0, output.tell()
            while output.tell() < file.size:
                try:
                    with self._hub.read(self._repository, file.path, output.tell()) as content:
                        hasher = self._append_content(file, content, output, hasher)
                    self._require_complete(file, output)
                except HubUnreachableError:
                    failures = 0 if output.tell() > most else failures + 1
                    most = max(most, output.tell())
                    if failures > MAX_CONSECUTIVE_FAILURES:
                        raise
                    if failures:
                        time.sleep(FIRST_RETRY_DELAY_SECONDS * 2 ** (failures - 1))
            output.flush()
            os.fsync(output.fileno())
            return output.tell() == file.size and hasher.matches

    def _append_content(self, file: RemoteFile, content: ContentStream, output: BinaryIO, hasher: Hasher) -> Hasher:
        """Append the bytes that arrive; drop the existing ones if the server sends the file from the beginning."""
        if content.start < output.tell():
            self._on_bytes(content.start - output.tell())
            output.truncate(content.start)
            output.seek(content.start)
            hasher = file.digest.create_hasher(file.size)
        for chunk in content.chunks:
            output.write(chunk)
            hasher.update(chunk)
            self._on_bytes(len(chunk))
            if output.tell() > file.size:
                break  # the content is not the expected file, and may never end
        return hasher

    def _require_complete(self, file: RemoteFile, output: BinaryIO) -> None:
        if output.tell() < file.size:
            message = f"{self._hub.endpoint} ended the transfer of {file.path} at byte {output.tell()} of {file.size}"
            raise HubUnreachableError(f"{message}: retry later")


def _make_file_name(file: RemoteFile) -> str:
    return f"{file.digest.algorithm}-{file.digest.value}"


def _find_file(folders: Iterable[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
