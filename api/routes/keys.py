"""/v1/keys: API keys, for administrators."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import CurrentAdministrator, IfMatchForbidden
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.schemas.pages import Page
from api.schemas.requests import NewKey, PageQuery
from api.schemas.resources import Deleted, KeyObject, NewKeyObject
from jobs.errors import ConflictError
from jobs.service import keys

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=JsonRoute)


@router.post("", status_code=201, response_model=NewKeyObject)
async def create_key(new: NewKey, admin: CurrentAdministrator) -> Response:
    """Create a key, and its project if it does not exist yet. Only this response shows the secret."""
    secret = keys.new_secret()
    made = await admin.service.writer.run(
        lambda c: keys.create(c, project=new.project, name=new.name, role=new.role, secret=secret)
    )
    shown = NewKeyObject(**KeyObject.from_record(made).model_dump(), secret=secret)
    return json_response(shown, 201, {"Cache-Control": "no-store"})


@router.get("", response_model=Page[KeyObject])
async def list_keys(query: Annotated[PageQuery, Query()], admin: CurrentAdministrator) -> Response:
    """List the keys of all projects, oldest first, including revoked ones."""
    found = await admin.service.reader.run(lambda c: keys.list_page(c, after=query.after, limit=query.limit + 1))
    return json_response(Page[KeyObject].from_items([KeyObject.from_record(key) for key in found], query.limit))


@router.delete("/{key_id}", response_model=Deleted, dependencies=[IfMatchForbidden])
async def revoke_key(key_id: str, admin: CurrentAdministrator) -> Response:
    """Revoke a key; it becomes invalid immediately."""
    if key_id == admin.key.id:
        raise ConflictError("a key cannot revoke itself; use another administrator's key")
    await admin.service.writer.run(lambda c: keys.revoke(c, key_id))
    return json_response(Deleted(id=key_id, object="api_key"))
