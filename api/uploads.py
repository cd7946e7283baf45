"""Receives uploads into the artifact store without keeping them in memory; failures leave nothing behind."""

import asyncio
import errno
import hashlib
import logging
import os
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request

from api.file_form import TEXT_FIELDS, read_lifetime, read_purpose
from api.multipart_form import FormReader
from api.settings import ApiSettings
from jobs.artifacts import ArtifactStore
from jobs.errors import InsufficientStorageError, InvalidRequestError, StorageUnavailableError, TooLargeError
from jobs.identifiers import new_id

FORM_OVERHEAD_BYTES = 64 * 1024
CHUNK_BYTES = 1 << 20
MAX_NAME_CHARACTERS = 255

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A fully received file; `path` is deleted when the request ends unless the file has been moved."""

    path: Path
    filename: str
    purpose: str
    lifetime_seconds: int | None
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ReceivedPart:
    """A fully received part of an upload; `path` is deleted when the request ends unless the file has been moved."""

    path: Path
    bytes: int


@asynccontextmanager
async def receive_file(request: Request, store: ArtifactStore, settings: ApiSettings) -> AsyncIterator[ReceivedFile]:
    """Receive a form with the field `file` and the fields that `api.file_form` describes.

    Raises:
        InvalidRequestError: the form is not valid.
        TooLargeError: the file is larger than allowed, judging by its announced length or the bytes received.
        InsufficientStorageError: the disk has no room for it.
        StorageUnavailableError: the artifact store cannot be written to.
    """
    form = FormReader(request.headers.get("Content-Type", ""), file_field="file", text_fields=TEXT_FIELDS)
    async with _receive_form(request, form, store, settings) as (writer, path):
        yield _build_received_file(form, writer, path)


@asynccontextmanager
async def receive_part(request: Request, store: ArtifactStore, settings: ApiSettings) -> AsyncIterator[ReceivedPart]:
    """Receive a form whose field `data` contains one part of an upload.

    Raises:
        DomainError: see `receive_file`.
    """
    form = FormReader(request.headers.get("Content-Type", ""), file_field="data", text_fields=frozenset())
    async with _receive_form(request, form, store, settings) as (writer, path):
        _require_file(form, "data")
        yield ReceivedPart(path, writer.bytes)


@asynccontextmanager
async def _receive_form(
    request: Request, form: FormReader, store: ArtifactStore, settings: ApiSettings
) -> AsyncIterator[tuple["_UploadWriter", Path]]:
    _check_content_length(request, store, settings)
    with translate_storage_errors():
        scratch = await asyncio.to_thread(store.open_scratch_folder)
    with temporary_file(scratch) as (file, path):
        writer = _UploadWriter(file, store, settings)
        async for data in request.stream():
            for piece in form.feed(data):
                await writer.add(piece)
        await writer.finish()
        yield writer, path


@contextmanager
def translate_storage_errors() -> Iterator[None]:
    """Turn disk errors of the artifact store into errors that tell the client what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise create_storage_full_error() from None
        log.exception("cannot write to the artifact store")
        message = f"cannot write to the artifact store: {error.strerror or error}; ask its operator to make it writable"
        raise StorageUnavailableError(message) from None


def store_bytes(store: ArtifactStore, settings: ApiSettings, key: str, content: bytes) -> None:
    """Write a file to the artifact store, and flush it to disk.

    Raises:
        InsufficientStorageError: the disk has no room for it.
        StorageUnavailableError: the artifact store cannot be written to.
    """
    if store.free_bytes() - len(content) < settings.free_space_reserve_bytes:
        raise create_storage_full_error()
    with translate_storage_errors(), temporary_file(store.open_scratch_folder()) as (file, path):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        store.put(path, key)


def validate_filename(given: str, param: str) -> str:
    """Return the name to store a file under.

    Raises:
        InvalidRequestError: The name contains a NUL character, or `%00`, which some clients send instead.
    """
    if "\0" in given or "%00" in given:
        raise InvalidRequestError("the filename contains a NUL character; remove it", param=param)
    return sanitize_filename(given)


def sanitize_filename(given: str) -> str:
    """Return the last path component of a name that a client sent, without control characters."""
    last = given.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(character for character in last if unicodedata.category(character)[0] != "C").strip()
    return "upload" if shown in ("", ".", "..") else shown[-MAX_NAME_CHARACTERS:]


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Create a file that is deleted at the end of the block unless it has been moved."""
    path = folder / new_id("upload")
    with translate_storage_errors():
        opened = path.open("xb")
    with opened as file:
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)


class _UploadWriter:
    """Hashes and writes chunks of at least a megabyte in a thread, and checks the size and the free disk space."""

    def __init__(self, file: BinaryIO, store: ArtifactStore, settings: ApiSettings) -> None:
        self._file = file
        self._store = store
        self._settings = settings
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self.bytes = 0

    async def add(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self.bytes > self._settings.max_upload_bytes:
            raise create_too_large_error(self._settings)
        self._buffer += piece
        if len(self._buffer) >= CHUNK_BYTES:
            await self._flush()

    async def finish(self) -> None:
        await self._flush()
        await asyncio.to_thread(self._sync)

    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def _flush(self) -> None:
        full, self._buffer = self._buffer, bytearray()
        await asyncio.to_thread(self._write, full)

    def _sync(self) -> None:
        """Flush the file to disk, because an accepted file must survive a power failure, as its row does."""
        with translate_storage_errors():
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write(self, data: bytearray) -> None:
        if self._store.free_bytes() - len(data) < self._settings.free_space_reserve_bytes:
            raise create_storage_full_error()
        self._hash.update(data)
        with translate_storage_errors():
            self._file.write(data)


def _build_received_file(form: FormReader, writer: _UploadWriter, path: Path) -> ReceivedFile:
    filename = _require_file(form, "file")
    purpose, lifetime = read_purpose(form.fields), read_lifetime(form.fields)
    return ReceivedFile(path, validate_filename(filename, "file"), purpose, lifetime, writer.bytes, writer.sha256())


def _require_file(form: FormReader, field: str) -> str:
    if not form.complete:
        raise InvalidRequestError("the multipart body ends too early; send it again")
    if form.filename is None:
        raise InvalidRequestError(f"the form has no file; add a field named {field}", param=field)
    return form.filename


def _check_content_length(request: Request, store: ArtifactStore, settings: ApiSettings) -> None:
    """Refuse a body before reading it if its Content-Length shows that it is too large."""
    announced = request.headers.get("Content-Length", "0")
    size = int(announced) if announced.isdecimal() else 0
    if size > settings.max_upload_bytes + FORM_OVERHEAD_BYTES:
        raise create_too_large_error(settings)
    if store.free_bytes() - size < settings.free_space_reserve_bytes:
        raise create_storage_full_error()


def create_too_large_error(settings: ApiSettings, param: str = "file") -> TooLargeError:
    """Return the error for a file that is larger than allowed."""
    message = f"a file may have at most {settings.max_upload_bytes} bytes; split it, or raise BAICHUAN_MAX_UPLOAD_BYTES"
    return TooLargeError(message, param=param)


def create_storage_full_error() -> InsufficientStorageError:
    """Return the error for a file that does not fit in the artifact store."""
    return InsufficientStorageError("the artifact store is full; delete files or artifacts, or enlarge its disk")
