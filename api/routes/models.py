"""/v1/models: the models that specs can name."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import CurrentCaller, IfMatchForbidden
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.schemas.pages import Page
from api.schemas.requests import ModelQuery, NewModel
from api.schemas.resources import Deleted, ModelObject
from jobs.service import deletions, models

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=JsonRoute)


@router.post("", status_code=201, response_model=ModelObject)
async def register(new: NewModel, caller: CurrentCaller) -> Response:
    """Register a checkpoint directory under one of the server's allowed model roots."""
    checked = await asyncio.to_thread(models.check_model_directory, new.path, caller.service.settings)
    made = await caller.service.writer.run(lambda c: models.register(c, caller.project_id, new.id, checked))
    return json_response(ModelObject.from_record(made, caller.key), 201, {"Location": f"/v1/models/{made.id}"})


@router.get("", response_model=Page[ModelObject])
async def list_models(query: Annotated[ModelQuery, Query()], caller: CurrentCaller) -> Response:
    """List the project's ready models, sorted by name."""
    limit = query.limit
    found = await caller.service.reader.run(
        lambda c: models.list_page(c, caller.project_id, after=query.after, limit=limit and limit + 1)
    )
    shown = [ModelObject.from_record(model, caller.key) for model in found]
    return json_response(Page[ModelObject].from_items(shown, limit or len(shown)))


@router.get("/{model:path}", response_model=ModelObject)
async def get_model(model: str, caller: CurrentCaller) -> Response:
    """Return one model; its id may contain slashes."""
    found = await caller.service.reader.run(lambda c: models.get(c, caller.project_id, model))
    return json_response(ModelObject.from_record(found, caller.key))


@router.delete("/{model:path}", response_model=Deleted, dependencies=[IfMatchForbidden])
async def delete_model(model: str, caller: CurrentCaller) -> Response:
    """Delete a model that is not in use; a 409 response lists the jobs or models that use it.

    If a job produced the model, its files are deleted too; a registered directory stays on disk.
    """
    await caller.service.writer.run(lambda c: deletions.delete_model(c, caller.project_id, model))
    return json_response(Deleted(id=model, object="model"))
