"""Browser sessions, and the one-time links that start them. Both act for an API key and end when it is revoked."""

import hashlib
import secrets
from collections.abc import Sequence

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import AuthenticationError
from jobs.records import KeyRecord, SessionRecord
from jobs.repository import sessions
from jobs.service import keys

LINK_TTL_SECONDS = 3600


def sign_in(connection: Connection, secret: str, seconds: float) -> tuple[str, SessionRecord]:
    """Start a session for an API key; return its token, which is not stored, and the session.

    Raises:
        AuthenticationError: the key is unknown or revoked.
    """
    key = keys.authenticate(connection, [secret])[0]
    if isinstance(key, AuthenticationError):
        raise key
    return _begin_session(connection, key, seconds)


def redeem_link(connection: Connection, token: str, seconds: float) -> tuple[str, SessionRecord]:
    """Start a session from a one-time link and invalidate the link.

    Raises:
        AuthenticationError: the link is unknown, used or expired, or its key was revoked.
    """
    digest = _hash_token(token)
    link = sessions.get_by_hash(connection, [digest], "link", now=now_ms(connection)).get(digest)
    if link is None or not sessions.remove(connection, digest):
        raise AuthenticationError(
            "the link has already been used or has expired; paste an API key, or restart the service to get a new link"
        )
    return _begin_session(connection, link.key, seconds)


def make_link(connection: Connection, key: KeyRecord) -> tuple[str, int]:
    """Create a one-time link that signs in with a key; return its token and its expiry time."""
    token, now = secrets.token_urlsafe(32), now_ms(connection)
    expires_at = now + LINK_TTL_SECONDS * 1000
    sessions.add(connection, _hash_token(token), key.id, "link", now=now, expires_at=expires_at)
    return token, expires_at


def authenticate(connection: Connection, tokens: Sequence[str]) -> list[SessionRecord | AuthenticationError]:
    """Look up the sessions of these tokens in one query; the result has one entry per token."""
    digests = [_hash_token(token) for token in tokens]
    found = sessions.get_by_hash(connection, set(digests), "session", now=now_ms(connection))
    return [found.get(digest) or AuthenticationError("the session has ended; sign in again") for digest in digests]


def sign_out(connection: Connection, token: str) -> None:
    """End a session; ending it twice is not an error."""
    sessions.remove(connection, _hash_token(token))


def _begin_session(connection: Connection, key: KeyRecord, seconds: float) -> tuple[str, SessionRecord]:
    token, now = secrets.token_urlsafe(32), now_ms(connection)
    session = SessionRecord(key, now + int(seconds * 1000))
    sessions.add(connection, _hash_token(token), key.id, "session", now=now, expires_at=session.expires_at)
    return token, session


def _hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
