"""/v1/estimates: the memory that a job would need."""

from fastapi import APIRouter, Response

from api.dependencies import CurrentCaller
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.routes.jobs import Spec
from api.schemas.estimates import EstimateObject
from jobs.service import estimates

router = APIRouter(prefix="/v1/estimates", tags=["estimates"], route_class=JsonRoute)


@router.post("", response_model=EstimateObject)
async def estimate(spec: Spec, caller: CurrentCaller) -> Response:
    """Estimate how much memory a job with this spec would need; nothing is submitted."""
    found = await caller.service.reader.run(lambda c: estimates.estimate_footprint(c, caller.project_id, spec))
    return json_response(EstimateObject.from_footprint(found))
