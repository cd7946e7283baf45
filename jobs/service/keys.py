"""Projects and API keys."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import AuthenticationError, InvalidRequestError, NotFoundError, UnknownCursorError
from jobs.identifiers import new_id
from jobs.records import KeyRecord
from jobs.repository import keys

Role = Literal["admin", "member"]
MIN_SECRET_CHARACTERS = 24
MAX_SECRET_CHARACTERS = 512


def new_secret() -> str:
    """Return a new secret for an API key."""
    return "bj-" + secrets.token_urlsafe(32)


def create(connection: Connection, *, project: str, name: str, role: Role, secret: str) -> KeyRecord:
    """Store the hash of a key for a project, and create the project if it does not exist.

    Unsalted SHA-256 is enough for a secret with 256 random bits, such as those that `new_secret` returns.

    Raises:
        InvalidRequestError: the secret is too short to be safe, or cannot be sent in a header.
    """
    if not MIN_SECRET_CHARACTERS <= len(secret) <= MAX_SECRET_CHARACTERS or not re.fullmatch(r"[!-~]+", secret):
        message = (
            f"an API key must have {MIN_SECRET_CHARACTERS} to {MAX_SECRET_CHARACTERS} ASCII characters without spaces"
        )
        raise InvalidRequestError(
            f"{message}; `python3 -c 'import secrets; print(secrets.token_urlsafe(32))'` generates one"
        )
    now = now_ms(connection)
    project_id = keys.ensure_project(connection, project, now=now)
    hint = f"{secret[:6]}…{secret[-4:]}"
    key = KeyRecord(new_id("key"), project_id, project, name, role, hint, now, revoked_at=None)
    keys.add(connection, key, _hash_secret(secret))
    return key


def authenticate(connection: Connection, secrets_: Sequence[str]) -> list[KeyRecord | AuthenticationError]:
    """Return the key of each secret, in the same order, with a single query."""
    hashes = [_hash_secret(secret) for secret in secrets_]
    found = keys.get_by_hash(connection, set(hashes))
    unknown = "the API key is unknown or revoked; `baichuan keys` lists and creates keys"
    return [found.get(value) or AuthenticationError(unknown) for value in hashes]


def list_page(connection: Connection, *, after: str | None, limit: int) -> list[KeyRecord]:
    """Return keys of all projects, oldest first.

    Raises:
        UnknownCursorError: `after` is not the id of a key.
    """
    if after and not keys.exists(connection, after):
        raise UnknownCursorError(after)
    return keys.list_page(connection, after=after, limit=limit)


def revoke(connection: Connection, key_id: str) -> None:
    """Revoke a key, with immediate effect.

    Raises:
        NotFoundError: no valid key has this id.
    """
    if not keys.revoke(connection, key_id, now=now_ms(connection)):
        raise NotFoundError(f"there is no valid key {key_id}; `GET /v1/keys` lists all keys", param="key_id")


def _hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
