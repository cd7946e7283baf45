"""/v1/session: signing a browser in and out."""

from fastapi import APIRouter, Request, Response

from api.dependencies import CurrentCaller, get_service
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.schemas.requests import NewSession
from api.schemas.resources import KeyObject
from api.schemas.sessions import SessionObject, SignedOut, SignInLink
from api.schemas.times import to_seconds
from api.security import SESSION_COOKIE, find_session, require_same_origin
from jobs.records import SessionRecord
from jobs.service import sessions

router = APIRouter(prefix="/v1/session", tags=["session"], route_class=JsonRoute)

SIGN_IN_PATH = "/dashboard/sign-in#link="
NO_STORE_HEADERS = {"Cache-Control": "no-store"}


@router.post("", status_code=201, response_model=SessionObject)
async def sign_in(new: NewSession, request: Request) -> Response:
    """Begin a session with an API key or a one-time link; the session's token is set as an HttpOnly cookie."""
    if "Origin" in request.headers:
        require_same_origin(request)
    service, lifetime = get_service(request), get_service(request).settings.session_seconds
    if new.key is not None:
        key = new.key.strip()
        token, session = await service.writer.run(lambda c: sessions.sign_in(c, key, lifetime))
    else:
        link = new.link or ""
        token, session = await service.writer.run(lambda c: sessions.redeem_link(c, link, lifetime))
    request.state.key = session.key
    answer = json_response(_to_session_object(session), 201, NO_STORE_HEADERS)
    answer.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=int(lifetime),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


@router.get("", response_model=SessionObject)
async def get_session(caller: CurrentCaller) -> Response:
    """Return the caller's API key, and when the session ends."""
    token = caller.credentials.session_token
    if caller.credentials.authorization is None and token:
        return json_response(
            _to_session_object(await find_session(caller.service.quick_reader, token)), headers=NO_STORE_HEADERS
        )
    return json_response(
        SessionObject(key=KeyObject.from_record(caller.key), expires_at=None), headers=NO_STORE_HEADERS
    )


@router.delete("", response_model=SignedOut)
async def sign_out(caller: CurrentCaller) -> Response:
    """End the session and delete its cookie."""
    token = caller.credentials.session_token
    if token:
        await caller.service.writer.run(lambda c: sessions.sign_out(c, token))
    answer = json_response(SignedOut(), headers=NO_STORE_HEADERS)
    answer.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.post("/links", status_code=201, response_model=SignInLink)
async def make_link(caller: CurrentCaller) -> Response:
    """Create a one-time link that signs a browser in with this request's key."""
    token, expires_at = await caller.service.writer.run(lambda c: sessions.make_link(c, caller.key))
    link = SignInLink(path=f"{SIGN_IN_PATH}{token}", token=token, expires_at=to_seconds(expires_at))
    return json_response(link, 201, NO_STORE_HEADERS)


def _to_session_object(session: SessionRecord) -> SessionObject:
    return SessionObject(key=KeyObject.from_record(session.key), expires_at=to_seconds(session.expires_at))
