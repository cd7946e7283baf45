"""Builds responses: objects serialized straight to JSON, and files read in chunks."""

import asyncio
import mimetypes
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from api.conditions import ByteRange, UnsatisfiableRangeError, matches_if_none_match, parse_range, satisfies_if_match
from api.errors import create_problem_response
from jobs.artifacts import ArtifactStore

MEDIA_TYPES = {".jsonl": "application/jsonl", ".log": "text/plain", ".md": "text/markdown"}
_BINARY_CONTENT = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file; its content type depends on its name", "content": _BINARY_CONTENT},
    206: {"description": "The range that the Range header requests", "content": _BINARY_CONTENT},
    304: {"description": "The file's ETag is in If-None-Match"},
}


def json_response(content: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with the object as JSON."""
    return Response(content.model_dump_json(), status, headers, "application/json")


async def file_response(
    request: Request, store: ArtifactStore, *, key: str, size: int, sha256: str, name: str
) -> Response:
    """Return a stored file, or the requested range of it, read in chunks.

    Args:
        request: The request, whose Range, If-Range, If-Match and If-None-Match headers are applied.
        store: The store that contains the file.
        key: The file's key in the store.
        size: Size of the whole file in bytes.
        sha256: SHA-256 of the whole file in hex, which is the entity tag.
        name: The path or name that the client knows the file by.
    """
    etag = f'"{sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(PurePosixPath(name).name, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    if not satisfies_if_match(request.headers.get("If-Match"), etag):
        return create_precondition_failed_response(request, "the file has changed; fetch it without If-Match")
    if matches_if_none_match(request.headers.get("If-None-Match"), etag):
        return Response(status_code=304, headers=headers)
    try:
        part = parse_range(_get_range_header(request, etag), size)
    except UnsatisfiableRangeError:
        return _create_range_not_satisfiable_response(request, size)
    if part:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    whole = part or ByteRange(0, size)
    headers["Content-Length"] = str(whole.stop - whole.start)
    content = await _read_ahead(store, key, whole)
    return StreamingResponse(content, 206 if part else 200, headers, _guess_media_type(name))


async def _read_ahead(store: ArtifactStore, key: str, part: ByteRange) -> Iterator[bytes]:
    """Return the chunks; the first one is read now, so that a failing store raises before the response begins."""
    pieces = store.read(key, part.start, part.stop)
    first = await asyncio.to_thread(next, pieces, b"")
    return chain([first], pieces)


def _get_range_header(request: Request, etag: str) -> str | None:
    condition = request.headers.get("If-Range")
    return request.headers.get("Range") if condition in (None, etag) else None


def _create_range_not_satisfiable_response(request: Request, size: int) -> Response:
    detail = f"the file has {size} bytes; request a range within it"
    headers = {"Content-Range": f"bytes */{size}"}
    title = "Range not satisfiable"
    return create_problem_response(
        request.state.request_id, 416, "range_not_satisfiable", title, detail, headers=headers
    )


def create_precondition_failed_response(request: Request, detail: str) -> Response:
    """Return the response to a request whose If-Match names another version."""
    return create_problem_response(
        request.state.request_id,
        412,
        "precondition_failed",
        "Precondition failed",
        detail,
        param="If-Match",
    )


def _guess_media_type(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return MEDIA_TYPES.get(suffix) or mimetypes.types_map.get(suffix) or "application/octet-stream"
