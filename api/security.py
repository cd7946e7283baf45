"""Authentication and permissions: bearer keys, browser sessions and roles."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request

from jobs.database.batching import CallBatcher
from jobs.errors import AuthenticationError, PermissionDeniedError
from jobs.records import KeyRecord, SessionRecord
from jobs.service import keys, sessions

SESSION_COOKIE = "baichuan_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request's sender: the Authorization header, or else a session cookie."""

    authorization: str | None
    session_token: str | None

    @classmethod
    def from_request(cls, request: Request) -> "Credentials":
        """Return the credentials of a request."""
        authorization = request.headers.get("Authorization")
        return cls(authorization, None if authorization else request.cookies.get(SESSION_COOKIE))


def parse_bearer_secret(header: str | None) -> str:
    """Return the secret in an Authorization header.

    Raises:
        AuthenticationError: the header is missing or contains no bearer key.
    """
    scheme, _, secret = (header or "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret or len(secret) > keys.MAX_SECRET_CHARACTERS:
        raise AuthenticationError("send an API key in the header `Authorization: Bearer <key>`")
    return secret


async def authenticate(reader: CallBatcher, header: str | None) -> KeyRecord:
    """Return the API key whose secret is in an Authorization header.

    Raises:
        AuthenticationError: the key is missing, unknown or revoked.
    """
    return await reader.call(keys.authenticate, parse_bearer_secret(header))


async def identify_key(reader: CallBatcher, credentials: Credentials) -> KeyRecord:
    """Return the API key on whose behalf a request is made.

    Raises:
        AuthenticationError: the credentials are missing or invalid.
    """
    if credentials.authorization is None and credentials.session_token:
        return (await find_session(reader, credentials.session_token)).key
    return await authenticate(reader, credentials.authorization)


async def find_session(reader: CallBatcher, token: str) -> SessionRecord:
    """Return the session that a cookie's token identifies.

    Raises:
        AuthenticationError: the session has ended.
    """
    return await reader.call(sessions.authenticate, token)


def require_same_origin(request: Request) -> None:
    """Check that a state-changing request was sent by a page of this service.

    SameSite keeps the cookie from pages of other sites, but not from those on other ports of the same host.

    Raises:
        PermissionDeniedError: the Origin header is missing or names another host or port.
    """
    origin = request.headers.get("Origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("Host"):
        raise PermissionDeniedError(
            f"a request with a session cookie must come from a page of this service, but its Origin is {origin};"
            " send an API key in the header `Authorization: Bearer <key>` instead"
        )


def require_admin(key: KeyRecord) -> KeyRecord:
    """Return the key if it is an administrator's.

    Raises:
        PermissionDeniedError: the key has another role.
    """
    if key.role != "admin":
        raise PermissionDeniedError(f"key {key.id} has the role {key.role}; this request requires an admin key")
    return key
