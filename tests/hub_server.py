"""A local server that answers as a Hugging Face hub does: descriptions of repositories, and files with ranges."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_ENDINGS = (".safetensors", ".bin", ".gguf", ".model")
PIECE_BYTES = 4096


@dataclass
class Repository:
    """A repository at one commit.

    Attributes:
        files: Content by path.
        revisions: Branches and tags.
        token: What a request must carry, if the repository is private or gated.
        is_gated: Whether everybody may see its description.
    """

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    is_gated: bool = False

    @classmethod
    def of(cls, folder: Path, **more: bytes) -> "Repository":
        """Return a repository with the files of a directory and others."""
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return cls(found | more)

    def describe(self, name: str) -> dict[str, Any]:
        """Return what the API tells."""
        siblings = []
        for path, content in self.files.items():
            pointer = f"version 1\noid sha256:{hashlib.sha256(content).hexdigest()}\n".encode()
            stored = pointer if path.endswith(LARGE_ENDINGS) else content
            blob = hashlib.sha1(f"blob {len(stored)}\0".encode() + stored, usedforsecurity=False).hexdigest()
            sibling: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
            if stored is pointer:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": len(pointer)}
            siblings.append(sibling)
        return {"id": name, "sha": self.commit, "siblings": siblings}


@dataclass
class HubServer:
    """The server.

    Attributes:
        url: Its address, for `HF_ENDPOINT`.
        storage_url: Address that large files are redirected to, of another origin.
        repositories: Repositories by name.
        requests: Method, path and headers of all requests.
        drops: By path of a file: byte positions after which the next responses end, one per response.
        replaced: Other content that is sent of a file, by its path.
        holds: By path of a file: the position at which its response waits for `released`.
        status: Status of all answers, if it is set.
        has_ranges: Whether `Range` is obeyed.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    drops: dict[str, list[int]] = field(default_factory=dict)
    replaced: dict[str, bytes] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    has_ranges: bool = True
    url: str = ""
    storage_url: str = ""

    def ranges(self, path: str) -> list[str | None]:
        """Return the ranges that were asked for of a file in the storage or, if it is small, on the hub itself."""
        found = [(url, headers) for _, url, headers in self.requests if url.endswith(f"/{path}")]
        stored = [headers for url, headers in found if url.startswith("/storage/")]
        return [headers.get("range") for headers in stored or [headers for _, headers in found]]

    def requested_files(self) -> set[str]:
        """Return the paths of all files that were asked for."""
        return {url.partition(f"/resolve/{'c0ffee' + '0' * 34}/")[2] for _, url, _ in self.requests} - {""}


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server on free ports of this machine, which ends with the block."""
    state = HubServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the base class
            """Print nothing."""

        def do_HEAD(self) -> None:
            _answer(state, self)

        def do_GET(self) -> None:
            _answer(state, self)

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    state.url, state.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for thread in threads:
        thread.start()
    try:
        yield state
    finally:
        state.released.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def _answer(state: HubServer, request: BaseHTTPRequestHandler) -> None:
    path = unquote(urlsplit(request.path).path)
    headers = {name.lower(): value for name, value in request.headers.items()}
    state.requests.append((request.command, path, headers))
    if state.status is not None:
        _send(request, state.status, b"")
        return
    match path.strip("/").split("/"):
        case ["api", "models", owner, name, "revision", *revision]:
            _describe(state, request, f"{owner}/{name}", "/".join(revision), headers)
        case [owner, name, "resolve", commit, *parts]:
            _resolve(state, request, f"{owner}/{name}", commit, "/".join(parts), headers)
        case ["storage", owner, name, *parts]:
            _send_file(state, request, f"{owner}/{name}", "/".join(parts), headers)
        case _:
            _send(request, 404, b"")


def _describe(
    state: HubServer, request: BaseHTTPRequestHandler, name: str, revision: str, headers: Mapping[str, str]
) -> None:
    found = state.repositories.get(name)
    if found is None or not (found.is_gated or _is_allowed(found, headers)):
        _send(request, 401, b"", {"X-Error-Code": "RepoNotFound"})
    elif revision not in (*found.revisions, found.commit):
        _send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
    else:
        _send(request, 200, json.dumps(found.describe(name)).encode(), {"Content-Type": "application/json"})


def _resolve(
    state: HubServer, request: BaseHTTPRequestHandler, name: str, commit: str, path: str, headers: Mapping[str, str]
) -> None:
    found = state.repositories[name]
    assert commit == found.commit  # so that a branch which moves meanwhile changes nothing
    if not _is_allowed(found, headers):
        _send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
    elif path not in found.files:
        _send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
    elif path.endswith(LARGE_ENDINGS):
        described = {
            "Location": f"{state.storage_url}/storage/{name}/{path}",
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(found.files[path])),
            "X-Linked-Etag": f'"{hashlib.sha256(found.files[path]).hexdigest()}"',
        }
        _send(request, 302, b"", described)
    else:
        _send_file(state, request, name, path, headers)


def _send_file(
    state: HubServer, request: BaseHTTPRequestHandler, name: str, path: str, headers: Mapping[str, str]
) -> None:
    found = state.repositories[name]
    content = state.replaced.get(path, found.files[path])
    start = int(headers["range"].removeprefix("bytes=").split("-")[0]) if "range" in headers else 0
    start = start if state.has_ranges else 0
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - start))
    request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
    request.send_header("X-Repo-Commit", found.commit)
    request.end_headers()
    drops, hold = state.drops.get(path, []), state.holds.get(path)
    end = drops.pop(0) if drops and request.command == "GET" else None
    position = start
    while request.command == "GET" and position < len(content):
        if end is not None and position >= end:
            request.close_connection = True
            return
        if hold is not None and position >= hold:
            request.wfile.flush()
            state.released.wait()
            hold = None
        limits = [limit for limit in (end, hold) if limit is not None]
        stop = min(position + PIECE_BYTES, len(content), *limits)
        try:
            request.wfile.write(content[position:stop])
        except OSError:
            request.close_connection = True
            return  # the client was killed, or needs no more
        position = stop


def _is_allowed(repository: Repository, headers: Mapping[str, str]) -> bool:
    return repository.token is None or headers.get("authorization") == f"Bearer {repository.token}"


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
