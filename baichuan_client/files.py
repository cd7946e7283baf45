"""Uploaded files: training data, prompts, batches."""

from collections.abc import Iterator
from pathlib import Path

from baichuan_client import calls
from baichuan_client.schemas import File
from baichuan_client.session import Session
from baichuan_client.transfers import Download, Progress, open_upload


class Files:
    """The files of the project."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def upload(self, path: str | Path, purpose: str, *, progress: Progress | None = None) -> File:
        """Upload a file; the service checks its content, and `status` says whether it can be used.

        Args:
            path: A regular file.
            purpose: `fine-tune`, `prompts` or `batch`; determines how the content is checked.
            progress: Called with the number of bytes sent and the size of the file.

        Raises:
            OSError: The file cannot be read.
        """
        with open_upload(Path(path), progress) as content:
            return self._session.call(calls.upload_file(Path(path).name, content, purpose, File.model_validate))

    def get(self, file_id: str) -> File:
        """Return the metadata of a file."""
        return self._session.call(calls.get_file(file_id))

    def list(self, *, purpose: str | None = None) -> Iterator[File]:
        """Yield the files, newest first; pages are requested as needed."""
        return self._session.iterate(calls.list_files({"purpose": purpose}))

    def download(self, file_id: str, path: str | Path, *, progress: Progress | None = None) -> Path:
        """Fetch a file and check its hash; see `Job.download`."""
        return self._session.fetch(Download.from_file(self.get(file_id), Path(path), progress))

    def delete(self, file_id: str) -> None:
        """Delete a file that no unfinished job uses."""
        self._session.send(calls.delete(calls.file_path(file_id)))
