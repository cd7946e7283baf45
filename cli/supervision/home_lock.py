"""Allows only one `baichuan up` per home directory."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from cli import endpoint
from cli.errors import CommandError


class HomeLock:
    """A lock that `up` holds while it runs; the kernel releases it even after `kill -9`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file = home / "up.lock"

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            CommandError: another `up` holds the lock, or the directory is not writable.
        """
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)  # only the service's user may read prompts
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            message = f"cannot write to {self._home}: {error.strerror}; set BAICHUAN_HOME to another directory"
            raise CommandError(message) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._file.read_text().strip()
            os.close(self._descriptor)
            raise CommandError(self._make_refusal_message(holder)) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        os.close(self._descriptor)

    def _make_refusal_message(self, holder: str) -> str:
        known = endpoint.load_saved_endpoint(self._home)
        where = f" at {known.url}" if known else ""
        return (
            f"`baichuan up` (process {holder or '?'}) is already serving {self._home}{where}; "
            "stop it first, or set BAICHUAN_HOME to another directory"
        )
