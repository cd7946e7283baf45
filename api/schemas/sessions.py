"""Sessions of the dashboard."""

from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.resources import KeyObject


class SessionObject(BaseModel):
    """The API key of a session or request, and when the session ends."""

    object: Literal["session"] = "session"
    key: KeyObject
    expires_at: int | None = Field(description="When the session ends; null for a request with an API key")


class SignInLink(BaseModel):
    """A one-time link that signs in whoever opens it first."""

    object: Literal["session.link"] = "session.link"
    path: str = Field(description="Path to append to the service's address; the token follows the #")
    token: str = Field(description="The value of `link` for `POST /v1/session`; it is accepted once")
    expires_at: int


class SignedOut(BaseModel):
    """The confirmation that the session has ended."""

    object: Literal["session"] = "session"
    deleted: Literal[True] = True
