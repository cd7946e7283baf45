"""Translates errors in communication with a hub into the engine's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from baichuan_core.errors import HubError, HubUnreachableError

FIRST_SERVER_ERROR = 500
RETRYABLE_STATUSES = (408, 425, 429)  # statuses after which the same request may succeed later
UNAUTHORIZED_STATUS = 401
MISSING_REVISION_MESSAGE = "has no revision {revision!r}: use an existing branch, tag or commit"
DISABLED_MESSAGE = "was disabled by the hub: use another repository"
MISSING_FILE_MESSAGE = "lists a file that it does not have: set HF_ENDPOINT to another mirror"
# Messages for requests that a hub refuses: error class, message if a token was sent, message if not. Derived classes
# come before their base classes. Each message follows the repository's address.
REFUSAL_MESSAGES: tuple[tuple[type[HfHubHTTPError], str, str], ...] = (
    (
        GatedRepoError,
        "is gated: accept its terms there with the account that HF_TOKEN belongs to",
        "is gated: accept its terms there, and set HF_TOKEN for the process that downloads",
    ),
    (
        RepositoryNotFoundError,
        "does not exist, or HF_TOKEN has no access to it: correct the name or the token",
        "does not exist or is private: correct the name, or set HF_TOKEN for the process that downloads",
    ),
    (RevisionNotFoundError, MISSING_REVISION_MESSAGE, MISSING_REVISION_MESSAGE),
    (DisabledRepoError, DISABLED_MESSAGE, DISABLED_MESSAGE),
    (RemoteEntryNotFoundError, MISSING_FILE_MESSAGE, MISSING_FILE_MESSAGE),
)


@dataclass(frozen=True, slots=True)
class HubRequest:
    """Details of a request to a hub, for error messages.

    Attributes:
        endpoint: Address of the hub.
        repository: Name of the repository.
        revision: The revision that the user asked for.
        has_token: Whether the request carries a token.
    """

    endpoint: str
    repository: str
    revision: str
    has_token: bool


@contextmanager
def translate_hub_errors(request: HubRequest) -> Iterator[None]:
    """Turn exceptions raised by the hub's client into `HubError` or `HubUnreachableError` with a remedy."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        variables = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
        message = f"{variables} is set, so {request.endpoint} is not contacted: unset it for this process"
        raise HubError(message) from error
    except HFValidationError as error:
        raise HubError(f"{request.repository!r} is not a valid repository name: {error}") from error
    except HfHubHTTPError as error:
        raise _to_hub_error(error, request) from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
        message = f"{request.endpoint} is not the address of a hub ({error}): correct HF_ENDPOINT"
        raise HubError(message) from error
    except httpx2.TransportError as error:
        reason = str(error) or type(error).__name__
        message = (
            f"{request.endpoint} is not responding ({reason}): check the network of this machine, or set HF_ENDPOINT "
            "to a mirror that it can reach"
        )
        raise HubUnreachableError(message) from error


def _to_hub_error(error: HfHubHTTPError, request: HubRequest) -> HubError:
    status, where = error.response.status_code, f"{request.endpoint}/{request.repository}"
    if status >= FIRST_SERVER_ERROR or status in RETRYABLE_STATUSES:
        return HubUnreachableError(f"{request.endpoint} responded with status {status}: try again later")
    if status == UNAUTHORIZED_STATUS and request.has_token and not isinstance(error, RepositoryNotFoundError):
        return HubError(f"{request.endpoint} does not accept HF_TOKEN: replace it with a valid token")
    for kind, with_token, without_token in REFUSAL_MESSAGES:
        if isinstance(error, kind):
            message = with_token if request.has_token else without_token
            return HubError(f"{where} {message.format(revision=request.revision)}")
    return HubError(f"{where} cannot be read: {error.server_message or f'status {status}'}")
