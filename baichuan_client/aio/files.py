"""The asynchronous counterpart of `baichuan_client.files`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from baichuan_client import calls
from baichuan_client.aio.session import AsyncSession
from baichuan_client.schemas import File
from baichuan_client.transfers import Download, Progress, open_upload


class AsyncFiles:
    """The files of the project; see `baichuan_client.files.Files`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def upload(self, path: str | Path, purpose: str, *, progress: Progress | None = None) -> File:
        """Upload a file; see `Files.upload`. The file is read in the event loop's thread, 64 KiB at a time."""
        with await asyncio.to_thread(open_upload, Path(path), progress) as content:
            return await self._session.call(calls.upload_file(Path(path).name, content, purpose, File.model_validate))

    async def get(self, file_id: str) -> File:
        """Return the metadata of a file."""
        return await self._session.call(calls.get_file(file_id))

    def list(self, *, purpose: str | None = None) -> AsyncIterator[File]:
        """Yield the files, newest first; pages are requested as needed."""
        return self._session.iterate(calls.list_files({"purpose": purpose}))

    async def download(self, file_id: str, path: str | Path, *, progress: Progress | None = None) -> Path:
        """Fetch a file and check its hash; see `AsyncJob.download`."""
        return await self._session.fetch(Download.from_file(await self.get(file_id), Path(path), progress))

    async def delete(self, file_id: str) -> None:
        """Delete a file that no unfinished job uses."""
        await self._session.send(calls.delete(calls.file_path(file_id)))
