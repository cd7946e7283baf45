"""Hashes that a hub uses to identify the content of files."""

import hashlib
import io
import re
from dataclasses import dataclass
from typing import Literal

CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Digest:
    """The hash of a file's content.

    Attributes:
        algorithm: "sha256" of the content for large files, "git" for the others: SHA-1 of git's header and the content.
        value: The hash in hex.
    """

    algorithm: Literal["sha256", "git"]
    value: str

    def __post_init__(self) -> None:
        """Check the value, which comes from a hub and becomes part of file names."""
        if not re.fullmatch("[0-9a-f]+", self.value):
            raise ValueError(f"{self.value!r} is not a hexadecimal hash")

    def create_hasher(self, size: int) -> "Hasher":
        """Return a new hasher for a file of `size` bytes."""
        if self.algorithm == "sha256":
            return Hasher(hashlib.sha256(), self.value)
        return Hasher(hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False), self.value)


class Hasher:
    """A hash that is computed as the content arrives."""

    def __init__(self, state: "hashlib._Hash", expected: str) -> None:
        self._state = state
        self._expected = expected

    def update(self, chunk: bytes) -> None:
        """Add the next bytes to the hash."""
        self._state.update(chunk)

    def update_from_file(self, file: io.BufferedIOBase) -> None:
        """Add the entire content of a file to the hash."""
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            self._state.update(chunk)

    @property
    def matches(self) -> bool:
        """Whether the content read so far has the expected hash."""
        return self._state.hexdigest() == self._expected
