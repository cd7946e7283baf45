"""Client for a Hugging Face hub or a mirror: lists the contents of a repository and reads its files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.hf_api import RepoSibling

from baichuan_core.errors import HubError

from .digests import Digest
from .failures import HubRequest, translate_hub_errors

TIMEOUT_SECONDS = 30.0
PARTIAL_CONTENT_STATUS = 206
USER_AGENT = "baichuan-jobs"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a repository, identified by its path."""

    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: Sequence[RemoteFile]


@dataclass(frozen=True, slots=True)
class ContentStream:
    """Bytes of a file from the offset `start` to its end; a server that ignores ranges starts at 0."""

    start: int
    chunks: Iterator[bytes]


class Hub:
    """A hub, accessed with or without a token.

    Args:
        endpoint: Its address, by default `HF_ENDPOINT` or https://huggingface.co.
        token: Token for private and gated repositories; tokens from other sources are not used.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token: str | bool = token or False  # True or None would use a token stored on this machine

    def describe(self, name: str, revision: str) -> Repository:
        """Return the commit and the list of files of a repository at a branch, a tag or a commit.

        Raises:
            HubError: The repository does not exist, or the token has no access; the message says what to change.
            HubUnreachableError: The hub is not responding.
        """
        api = HfApi(endpoint=self.endpoint, token=self._token, library_name=USER_AGENT)
        with translate_hub_errors(self._build_request(name, revision)):
            try:
                found = api.model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
                # Skip unprintable names, which cannot be displayed or stored; no model file has one.
                named = [sibling for sibling in found.siblings or () if sibling.rfilename.isprintable()]
                files = [_to_remote_file(sibling) for sibling in named]
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, OSError) or type(error).__module__.startswith("huggingface_hub"):
                    raise
                message = f"{self.endpoint} does not respond like a hub ({error!r}): correct HF_ENDPOINT"
                raise HubError(message) from error
        if found.sha is None:
            raise HubError(f"{self.endpoint} does not report the commit of {name}: set HF_ENDPOINT to another mirror")
        return Repository(name, found.sha, files)

    @contextmanager
    def read(self, repository: Repository, path: str, start: int) -> Iterator[ContentStream]:
        """Request a file from the offset `start`, and yield its bytes as they arrive.

        Raises:
            HubError: The hub refuses the request; see `describe`.
            HubUnreachableError: The connection was lost; the bytes that have arrived are valid.
        """
        url = hf_hub_url(repository.name, path, revision=repository.commit, endpoint=self.endpoint)
        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            translate_hub_errors(self._build_request(repository.name, repository.commit)),
            get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            begins_at = start if response.status_code == PARTIAL_CONTENT_STATUS else 0
            # If a chunk size were set, the last incomplete chunk before a dropped connection would be lost.
            yield ContentStream(begins_at, response.iter_bytes())

    def _build_request(self, name: str, revision: str) -> HubRequest:
        return HubRequest(self.endpoint, name, revision, has_token=bool(self._token))


def _to_remote_file(sibling: RepoSibling) -> RemoteFile:
    """Convert the hub's description of a file to a `RemoteFile`.

    Raises:
        ValueError: The hub omits the file's size or hash.
    """
    size, large = sibling.size, sibling.lfs
    if large is not None:
        return RemoteFile(sibling.rfilename, large.size, Digest("sha256", large.sha256))
    if size is None or sibling.blob_id is None:
        raise ValueError(f"no size or hash for {sibling.rfilename}")
    return RemoteFile(sibling.rfilename, size, Digest("git", sibling.blob_id))
