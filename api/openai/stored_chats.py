"""/v1/chat/completions/{id}: chats whose text is stored because they were requested with `store: true`."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from api.dependencies import CurrentCaller
from api.json_bodies import OpenAIRoute
from api.openai.bodies import RequestBody
from api.openai.completion_objects import ChatCompletionObject
from api.openai.queries import ORDERED_PARAMETERS, OrderedQuery, read_query_as
from api.responses import json_response
from api.schemas.pages import IdentifiedObject, Page
from jobs.records import ChatRecord
from jobs.service import chats
from jobs.specs.fields import Metadata

router = APIRouter(prefix="/v1/chat/completions", tags=["openai"], route_class=OpenAIRoute)


class StoredChatObject(ChatCompletionObject, IdentifiedObject):
    """A stored answer with its metadata."""

    metadata: dict[str, str] | None

    @classmethod
    def from_record(cls, record: ChatRecord) -> "StoredChatObject":
        """Read the stored answer from its row."""
        stored = record.stored or {}
        return cls.model_validate({**stored["answer"], "metadata": stored["metadata"]})


class ChatDeletedObject(BaseModel):
    """The confirmation that a stored chat was deleted."""

    id: str
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    deleted: Literal[True] = True


class StoredChatUpdateBody(RequestBody):
    """The part of a stored chat that clients can change."""

    metadata: Metadata | None


@router.get("", response_model=Page[StoredChatObject], openapi_extra=ORDERED_PARAMETERS)
async def list_chats(request: Request, caller: CurrentCaller) -> Response:
    """List the stored chats of the project, oldest first by default."""
    query = read_query_as(OrderedQuery, request)
    found = await caller.service.slow_reader.run(
        lambda connection: chats.list_stored(
            connection,
            caller.project_id,
            after=query.after,
            limit=query.limit + 1,
            oldest_first=query.order == "asc",
        )
    )
    return json_response(
        Page[StoredChatObject].from_items([StoredChatObject.from_record(each) for each in found], query.limit)
    )


@router.get("/{completion_id}", response_model=StoredChatObject)
async def get(completion_id: str, caller: CurrentCaller) -> Response:
    """Return one stored chat."""
    found = await caller.service.reader.run(lambda c: chats.get_stored(c, caller.project_id, completion_id))
    return json_response(StoredChatObject.from_record(found))


@router.post("/{completion_id}", response_model=StoredChatObject)
async def update(completion_id: str, body: StoredChatUpdateBody, caller: CurrentCaller) -> Response:
    """Replace the metadata of a stored chat."""
    changed = await caller.service.writer.run(
        lambda c: chats.set_metadata(c, caller.project_id, completion_id, body.metadata)
    )
    return json_response(StoredChatObject.from_record(changed))


@router.delete("/{completion_id}", response_model=ChatDeletedObject)
async def delete(completion_id: str, caller: CurrentCaller) -> Response:
    """Delete the text of a stored chat; its tokens still count as usage."""
    await caller.service.writer.run(lambda c: chats.delete_stored(c, caller.project_id, completion_id))
    return json_response(ChatDeletedObject(id=completion_id))
