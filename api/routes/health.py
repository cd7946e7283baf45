"""Health and readiness checks, for supervisors and load balancers."""

import asyncio
import logging

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import DBAPIError

from api.dependencies import Service, get_service
from api.errors import create_problem_response
from api.responses import json_response
from api.schemas.health import Health, Readiness
from jobs.database.file import DatabaseFileGoneError

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Return 200 if the process is running."""
    return json_response(Health())


@router.get("/readyz", response_model=Readiness)
async def readyz(request: Request) -> Response:
    """Return 200 if the database is reachable, migrated and writable. Jobs are accepted even while Redis is down."""
    service = get_service(request)
    fault, redis = await asyncio.gather(
        asyncio.to_thread(_find_database_fault, service), asyncio.to_thread(service.transport.is_reachable)
    )
    if fault:
        headers = {"Retry-After": "1"}
        return create_problem_response(request.state.request_id, 503, "not_ready", "Not ready", fault, headers=headers)
    return json_response(Readiness(redis="ok" if redis else "unreachable"))


def _find_database_fault(service: Service) -> str | None:
    try:
        migrated = service.database.is_migrated()
        if migrated:
            service.write_probe.check()
    except DatabaseFileGoneError as error:
        return error.message
    except DBAPIError as error:
        log.warning("the database is not ready: %s", error)
        return f"the database is not writable ({error.orig}); check its disk, DATABASE_URL and the database server"
    return None if migrated else "the database schema is out of date; run `baichuan init`"
