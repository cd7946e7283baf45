"""The dashboard: the prebuilt page, which uses the same API as any other client."""

import asyncio
import mimetypes
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

DASHBOARD_PATH = "/dashboard/"
ASSETS_PREFIX = "assets/"  # file names in this folder contain a hash of the content
CACHE_FOREVER = "public, max-age=31536000, immutable"
NO_CACHE = "no-cache"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self';"
    " connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MISSING_DASHBOARD_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Baichuan Jobs</title></head>
<body><h1>Baichuan Jobs</h1><p>The dashboard is not part of this installation, which has no folder
<code>dashboard/dist</code>. The API works; <a href="/docs">its documentation</a> lists all endpoints.</p></body></html>
"""


def get_bundle_folder() -> Path:
    """Return the folder of the built dashboard in the package, whether or not it exists."""
    return Path(__file__).parents[2] / "dashboard" / "dist"


@router.get("/")
async def redirect_to_dashboard() -> Response:
    """Redirect browsers to the dashboard."""
    return RedirectResponse(DASHBOARD_PATH, 307, SECURITY_HEADERS)


@router.get("/dashboard")
async def redirect_to_trailing_slash() -> Response:
    """Redirect browsers to the URL with a trailing slash, because the page's relative links depend on it."""
    return RedirectResponse(DASHBOARD_PATH, 308, SECURITY_HEADERS)


@router.get("/dashboard/{path:path}")
async def serve_page(path: str, request: Request) -> Response:
    """Serve one of the dashboard's files; any other path gets the page itself, which does its own routing."""
    bundle: Path = getattr(request.app.state, "dashboard", None) or get_bundle_folder()
    return await asyncio.to_thread(_create_response, bundle, path)


def _create_response(bundle: Path, path: str) -> Response:
    index = bundle / "index.html"
    if not index.is_file():
        return HTMLResponse(MISSING_DASHBOARD_PAGE, headers={**SECURITY_HEADERS, "Cache-Control": NO_CACHE})
    found = bundle / path
    if path and found.is_file() and found.resolve().is_relative_to(bundle.resolve()):
        caching = CACHE_FOREVER if path.startswith(ASSETS_PREFIX) else NO_CACHE
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        return FileResponse(found, headers={**SECURITY_HEADERS, "Cache-Control": caching}, media_type=kind)
    if path.startswith(ASSETS_PREFIX):
        raise HTTPException(404)
    return FileResponse(index, headers={**SECURITY_HEADERS, "Cache-Control": NO_CACHE}, media_type="text/html")
