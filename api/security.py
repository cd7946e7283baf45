"""Who asks: bearer keys, and what their roles allow."""

from jobs.database.batching import Lane
from jobs.errors import AuthenticationError, PermissionDeniedError
from jobs.records import KeyRecord
from jobs.service import keys


def bearer_secret(header: str | None) -> str:
    """The secret of an Authorization header.

    Raises:
        AuthenticationError: there is no such header, or it is none with a bearer key.
    """
    scheme, _, secret = (header or "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret or len(secret) > keys.LONGEST_SECRET:
        raise AuthenticationError("send an API key in the header `Authorization: Bearer <key>`")
    return secret


async def authenticate(reader: Lane, header: str | None) -> KeyRecord:
    """The key behind an Authorization header.

    Raises:
        AuthenticationError: it is missing, unknown or revoked.
    """
    return await reader.call(keys.authenticate, bearer_secret(header))


def require_admin(key: KeyRecord) -> KeyRecord:
    """The key itself, if it is an administrator's.

    Raises:
        PermissionDeniedError: it is not.
    """
    if key.role != "admin":
        raise PermissionDeniedError(f"key {key.id} has the role {key.role}; this needs a key with the role admin")
    return key
