"""/v1/chat/completions and /v1/completions: a runner that has loaded the model generates the answer."""

import json
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from api.connections import run_while_connected
from api.dependencies import Caller, CurrentCaller
from api.json_bodies import OpenAIRoute
from api.openai.answers import Answer
from api.openai.completion_bodies import ChatBody, CompletionBody, TextBody
from api.openai.completion_objects import (
    ChatCompletionObject,
    ChunkFormatter,
    TextCompletionObject,
    build_chat_completion,
    build_text_completion,
)
from api.openai.completion_streams import CompletionStream
from api.openai.extension import Extension, SpecFields
from api.openai.serving import AnswerRequest, open_answer
from api.responses import json_response
from jobs.errors import DomainError
from jobs.identifiers import new_id
from jobs.records import Json
from jobs.specs import ServeSpec

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

CHAT_ID_PREFIX = "chatcmpl"
TEXT_ID_PREFIX = "cmpl"
SERVE_PRIORITY = 50  # lets serve jobs start before jobs with the default priority
PARAMETER_NAMES = {"adapter": "baichuan.adapter"}
STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, sent in chunks if `stream` is true", "content": {"text/event-stream": {}}}
}


@router.post("/chat/completions", response_model=ChatCompletionObject, responses=STREAM_RESPONSES)
async def create_chat(body: ChatBody, request: Request, caller: CurrentCaller) -> Response:
    """Answer a chat; the answer is sent as a whole or as a stream."""
    return await _answer_request(body, request, caller, CHAT_ID_PREFIX)


@router.post("/completions", response_model=TextCompletionObject, responses=STREAM_RESPONSES)
async def create_text(body: TextBody, request: Request, caller: CurrentCaller) -> Response:
    """Complete one or more texts; the answer is sent as a whole or as a stream."""
    return await _answer_request(body, request, caller, TEXT_ID_PREFIX)


async def _answer_request(body: ChatBody | TextBody, request: Request, caller: Caller, prefix: str) -> Response:
    answer = await _open_answer(body, request, caller, prefix)
    if isinstance(body, ChatBody) and body.store:
        answer.keep = lambda: _build_stored_chat(body, answer)
    if body.stream:
        counts = body.includes_usage
        formatter = ChunkFormatter(
            answer.row.id, answer.created, body.model, is_chat=prefix == CHAT_ID_PREFIX, counts=counts
        )
        idle_seconds = caller.service.settings.stream_idle_seconds
        return CompletionStream(answer, formatter, counts=counts, idle_seconds=idle_seconds)
    try:
        await run_while_connected(request.receive, answer.wait())
    except DomainError as error:
        answer.mark_failed(error)
        raise
    finally:
        answer.close()
    show = build_chat_completion if prefix == CHAT_ID_PREFIX else build_text_completion
    return json_response(show(answer.row.id, answer.created, body.model, answer.choices, answer.usage))


async def _open_answer(body: ChatBody | TextBody, request: Request, caller: Caller, prefix: str) -> Answer:
    """Wait until a runner has begun to answer.

    Raises:
        DomainError: No runner answers; the error names the parameter at fault.
    """
    began, fields = time.monotonic(), _build_spec_fields(body)
    wanted = AnswerRequest(
        answer_id=new_id(prefix),
        endpoint=request.url.path,
        spec=fields.build_spec(ServeSpec, Extension()),
        requests=body.build_requests(),
        choices=body.choices_per_prompt,
        names=body.parameter_names,
        wait_seconds=body.baichuan.wait_seconds,
        began=began,
    )
    try:
        return await run_while_connected(request.receive, open_answer(caller, wanted))
    except DomainError as error:
        raise fields.rename_param(error, ServeSpec) from None


def _build_spec_fields(body: CompletionBody) -> SpecFields:
    given: Mapping[str, Any] = {
        "kind": "serve",
        "model": body.model,
        "adapter": body.baichuan.adapter,
        "priority": SERVE_PRIORITY,
    }
    return SpecFields(given, PARAMETER_NAMES, {})


def _build_stored_chat(body: ChatBody, answer: Answer) -> Json:
    """Return the JSON to store for a chat that the client asked to store."""
    shown = build_chat_completion(answer.row.id, answer.created, body.model, answer.choices, answer.usage)
    stored = {"messages": body.messages, "metadata": body.metadata, "answer": shown.model_dump(mode="json")}
    text = json.dumps(stored).replace(r"\u0000", r"\ufffd")  # PostgreSQL's JSON cannot contain NUL
    return json.loads(text)  # type: ignore[no-any-return]
