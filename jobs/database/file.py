"""Detection of a deleted or replaced SQLite file; SQLite itself would keep writing to the deleted file."""

from pathlib import Path

from sqlalchemy.exc import OperationalError


class DatabaseFileGoneError(OperationalError):
    """Writes would be lost because the database file is gone; callers handle this as an outage."""

    def __init__(self, message: str) -> None:
        super().__init__(None, None, Exception(message))
        self.message = message

    def __str__(self) -> str:
        return self.message


class DatabaseFile:
    """The file that an engine's first connection opened; its methods are listeners for the engine's events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, int] | None = None

    def remember_file(self, *_: object) -> None:
        """Remember which file is open."""
        if self._opened is None:
            self._opened = self._read_identity()

    def require_unchanged(self, *_: object) -> None:
        """Check that the file has not been deleted or replaced.

        Raises:
            DatabaseFileGoneError: it was deleted or replaced.
        """
        present = self._read_identity()
        if self._opened is None or present == self._opened:
            return
        fault = "was replaced by another file" if present else "was deleted"
        raise DatabaseFileGoneError(
            f"the database file {self._path} {fault} while the service was running, so nothing can be stored; stop the "
            "service, put the file back or restore a backup, and start the service again"
        )

    def require_unchanged_before_connecting(self, *_: object) -> None:
        """Call `require_unchanged` before connecting, because a new connection would create an empty database."""
        self.require_unchanged()

    def _read_identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino
