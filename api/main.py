"""Assembles the FastAPI application: routes, middleware, error handlers and the OpenAPI document."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from api import errors
from api.dependencies import open_service
from api.middleware import BodilessResponseMiddleware, BodyLimitMiddleware, OutermostMiddleware
from api.openai import batches, chats, fine_tuning, stored_chats, uploads
from api.routes import (
    artifacts,
    bulk_operations,
    dashboard,
    datasets,
    estimates,
    events,
    feed,
    files,
    health,
    history,
    job_deletion,
    jobs,
    keys,
    logs,
    metrics,
    models,
    resume_points,
    session,
    workers,
)
from api.schemas.problems import Problem
from api.security import SESSION_COOKIE
from api.settings import ApiSettings

PROBLEM_REFERENCE = {"schema": {"$ref": "#/components/schemas/Problem"}}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"description": "Any error", "content": {errors.PROBLEM_MEDIA_TYPE: PROBLEM_REFERENCE}}
}
SECURITY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, created with `baichuan keys`"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "A browser session, started with `POST /v1/session`",
    },
}
PUBLIC_OPERATIONS = {("/v1/session", "post")}
ROUTE_MODULES = (
    *(jobs, job_deletion, bulk_operations, estimates, events, logs, metrics, resume_points, artifacts),
    *(datasets, files, models, workers, history, keys, session, feed),
)
OPENAI_ROUTE_MODULES = (uploads, fine_tuning, batches, chats, stored_chats)
STREAMED_ROUTES = (re.compile(r"POST /v1/files"), re.compile(r"POST /v1/uploads/[^/]+/parts"))


def create_app(settings: ApiSettings) -> FastAPI:
    """Return the API application, which opens the database, broker and store when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_service(settings) as service:
            app.state.service = service
            async with service.hub.running(), service.chats.running():
                yield

    app = FastAPIOffline(
        title="Baichuan Jobs",
        version=version("baichuan-jobs"),
        description="Asynchronous jobs that quantize, convert, fine-tune and run the Baichuan models.",
        lifespan=lifespan,
        redirect_slashes=False,
        responses=ERROR_RESPONSES,
        redoc_url=None,
    )
    errors.install_error_handlers(app)
    for resource in (*ROUTE_MODULES, *OPENAI_ROUTE_MODULES, health, dashboard):  # routes are tried in this order
        app.include_router(resource.router)
    app.add_middleware(BodyLimitMiddleware, limit=settings.max_body_bytes, streamed=STREAMED_ROUTES)
    app.add_middleware(BodilessResponseMiddleware)
    app.add_middleware(OutermostMiddleware)
    app.openapi = lambda: _build_openapi_document(app)  # type: ignore[method-assign]
    return app


def _build_openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the common error format and the credentials that all of /v1 requires."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        document["components"]["schemas"] |= _build_problem_schemas()
        document["components"]["securitySchemes"] = SECURITY_SCHEMES
        for path in (path for path in document["paths"] if path.startswith("/v1/")):
            for method, operation in document["paths"][path].items():
                if (path, method) not in PUBLIC_OPERATIONS:
                    operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
        app.openapi_schema = document
    return app.openapi_schema


def _build_problem_schemas() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    parts: dict[str, Any] = schema.pop("$defs")
    return {"Problem": schema, **parts}
