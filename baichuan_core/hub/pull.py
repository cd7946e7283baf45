"""Downloads a model from a repository on a Hugging Face hub."""

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.checkpoint import make_directory, require_space, staged_output
from baichuan_core.errors import CheckpointError, UnsupportedError
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress
from checkpoint_files import AdapterSettings, FileError, UnsupportedFileError, check_directory, read_config
from checkpoint_files.adapter_settings import CONFIG_FILE as ADAPTER_CONFIG

from .client import Hub, RemoteFile
from .downloads import Downloader
from .selection import select_files


@dataclass(frozen=True, slots=True)
class PullReport:
    """Summary of a download.

    Attributes:
        endpoint: Address of the hub.
        repository: Name of the repository.
        revision: The branch, tag or commit that was asked for.
        commit: The commit that was downloaded.
        files: Number of files of the model.
        bytes: Their total size.
        received_bytes: Bytes that this run received.
        skipped: Names of the other files of the repository.
    """

    endpoint: str
    repository: str
    revision: str
    commit: str
    files: int
    bytes: int
    received_bytes: int
    skipped: tuple[str, ...]


def pull(
    repository: str,
    output: Path | str,
    *,
    downloads: Path | str,
    earlier: Sequence[Path] = (),
    revision: str = "main",
    hub: Hub | None = None,
    reserve_bytes: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> PullReport:
    """Download the weights, configuration, tokenizer, chat templates, license and README of a repository, but no code.

    If there are weights in several formats, safetensors are chosen. Every byte is checked against the hash that the hub
    announces. The configuration and the tokenizer come first, so that a repository of another model family is
    rejected before its weights are downloaded.

    Args:
        repository: Its name, including the owner.
        output: Directory of the result, which must be missing or empty. It appears only when complete.
        downloads: Directory that keeps partial downloads. If a run is killed, another one with the same directory
            continues. If it is on the file system of `output`, it takes no additional space.
        earlier: Download directories of earlier runs.
        revision: A branch, a tag or a commit.
        hub: The hub of the repository; by default `HF_ENDPOINT` or https://huggingface.co, without a token.
        reserve_bytes: Bytes to leave free on the disk.
        on_progress: Called as bytes arrive.

    Raises:
        HubError: The repository does not exist, may not be read, has no model, or differs from the hub's announcement.
        HubUnreachableError: The hub is not responding; another run may succeed, and continues the download.
        CheckpointError: The files are not a model of this family, or are incomplete; or `output` is taken.
        UnsupportedError: The weights are quantized in an unsupported format.
        InsufficientSpaceError: The disk cannot hold the files.
    """
    output, downloads = Path(output), Path(downloads)
    make_directory(downloads)
    hub, meter = hub or Hub(), DownloadMeter(on_progress)
    on_progress(Progress(0.0, "reading the repository"))
    selection = select_files(hub.describe(repository, revision))
    found = selection.repository
    loader = Downloader(hub, found, downloads, earlier, meter.count_bytes)
    with staged_output(output) as staging:
        _download_files(loader, selection.settings, staging)
        _check_settings(staging, repository)
        weights = selection.list_weights(staging)
        files = {file.path: file for file in (*selection.settings, *weights)}
        total, present = sum(file.size for file in files.values()), loader.count_present_bytes(files.values())
        require_space(downloads, total - present + reserve_bytes)
        meter.begin(total, present)
        _download_files(loader, weights, staging)
        on_progress(Progress(1.0, "checking"))
        with _translate_file_errors(staging, repository):
            check_directory(staging)
    skipped = tuple(file.path for file in found.files if file.path not in files)
    return PullReport(hub.endpoint, repository, revision, found.commit, len(files), total, meter.received, skipped)


class DownloadMeter:
    """Meter that reports the number of bytes received, once the total is known.

    Attributes:
        received: Bytes that this run received.
    """

    def __init__(self, on_progress: ProgressCallback) -> None:
        self._on_progress = on_progress
        self._began_at = time.monotonic()
        self._present, self._total, self._fraction = 0, 0, 0.0
        self.received = 0

    def begin(self, total: int, present: int) -> None:
        """Start reporting.

        Args:
            total: Bytes of all files.
            present: Number of those bytes that are already on this machine.
        """
        self._total, self._present = total, present
        self.count_bytes(0)

    def count_bytes(self, change: int) -> None:
        """Add bytes that have arrived; a negative number subtracts bytes that turned out to be unusable."""
        self._present += change
        self.received += max(change, 0)
        if not self._total:
            return
        self._fraction = max(self._fraction, min(self._present / self._total, 1.0))
        seconds = max(time.monotonic() - self._began_at, 1e-3)
        figures = {
            "downloaded_bytes": self._present,
            "total_bytes": self._total,
            "bytes_per_second": self.received / seconds,
        }
        self._on_progress(Progress(self._fraction, "downloading", figures))


def _download_files(loader: Downloader, files: Iterable[RemoteFile], folder: Path) -> None:
    """Download files and put them into the folder, as hard links if the file system supports them."""
    for file in files:
        complete, target = loader.fetch(file), folder / file.path
        target.parent.mkdir(exist_ok=True)
        try:
            target.hardlink_to(complete)
        except OSError:
            shutil.copyfile(complete, target)


def _check_settings(folder: Path, repository: str) -> None:
    """Check the model family and the quantization before the weights are downloaded."""
    with _translate_file_errors(folder, repository):
        if (folder / ADAPTER_CONFIG).exists():
            AdapterSettings.read(folder)
        else:
            read_config(folder)


@contextmanager
def _translate_file_errors(folder: Path, repository: str) -> Iterator[None]:
    """Translate errors about invalid files into the engine's errors, naming the repository instead of the folder."""
    try:
        yield
    except FileError as fault:
        kind = UnsupportedError if isinstance(fault, UnsupportedFileError) else CheckpointError
        raise kind(str(fault).replace(str(folder), repository)) from fault
