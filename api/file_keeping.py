"""Keeps a received file: checks its content, stores its bytes, then adds its row."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Connection

from api.dependencies import Caller
from api.lost_answers import RetryHistory
from api.schemas.purposes import to_displayed_purpose
from api.uploads import ReceivedFile, translate_storage_errors
from jobs.database import OUTAGE_ERRORS
from jobs.inputs import check_file
from jobs.records import FileRecord
from jobs.service import files

RowAdder = Callable[[Connection, FileRecord], FileRecord]


async def keep_file(caller: Caller, arrived: ReceivedFile, add: RowAdder) -> FileRecord:
    """Check the content, store the bytes, then add the row, even if the client disconnects.

    Args:
        caller: The owner of the file.
        arrived: The file.
        add: Adds the row; may instead return another file that already has a row.
    """
    return await asyncio.shield(_store_file(caller, arrived, add))


def make_idempotent_adder(tries: RetryHistory, lifetime_seconds: int | None) -> RowAdder:
    """Return a function that adds a file's row unless an earlier try of this request has already added it."""

    def add(connection: Connection, file: FileRecord) -> FileRecord:
        if tries.count:
            within = tries.within_seconds
            found = files.find_identical(connection, file, lifetime_seconds=lifetime_seconds, within_seconds=within)
            if found is not None:
                return found
        return files.add(connection, file, lifetime_seconds=lifetime_seconds)

    return add


async def _store_file(caller: Caller, arrived: ReceivedFile, add: RowAdder) -> FileRecord:
    """Store the file and add its row; reserve the key first, so that a file whose row is never added is deleted."""
    checked = await asyncio.to_thread(check_file, arrived.path, arrived.purpose, arrived.filename)
    purpose = to_displayed_purpose(arrived.purpose)
    record = files.build_file_record(
        caller.project_id, arrived.filename, purpose, arrived.bytes, arrived.sha256, checked
    )
    writer = caller.service.writer
    await writer.run(lambda c: files.reserve_file(c, record))
    try:
        with translate_storage_errors():
            await asyncio.to_thread(caller.service.store.put, arrived.path, record.key)
        kept = await writer.run(lambda c: add(c, record))
    except Exception:
        with suppress(*OUTAGE_ERRORS):
            await writer.run(lambda c: files.discard_file(c, record))
        raise
    if kept.id != record.id:
        await writer.run(lambda c: files.discard_file(c, record))
    return kept
