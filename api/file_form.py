"""The form fields of an upload other than the file: their schema in the OpenAPI document, and their validation."""

import re
from collections.abc import Mapping
from typing import Any

from api.schemas.purposes import PURPOSES
from jobs.errors import InvalidRequestError

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
TEXT_FIELDS = frozenset({"purpose", ANCHOR, SECONDS})
MIN_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS = 3600, 2_592_000  # in seconds; the same limits as in OpenAI's API
OPENAPI_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {
                            "type": "string",
                            "enum": list(PURPOSES),
                            "description": "`prompts` and `evals` are shown as `user_data`",
                        },
                        ANCHOR: {"type": "string", "enum": ["created_at"]},
                        SECONDS: {
                            "type": "integer",
                            "minimum": MIN_LIFETIME_SECONDS,
                            "maximum": MAX_LIFETIME_SECONDS,
                            "description": "Seconds after which the file expires; by default, it never expires",
                        },
                    },
                }
            }
        },
    }
}


def read_purpose(fields: Mapping[str, str]) -> str:
    """Return the purpose that the form specifies.

    Raises:
        InvalidRequestError: The purpose is missing or unknown.
    """
    purpose = fields.get("purpose")
    if purpose not in PURPOSES:
        raise InvalidRequestError(f"must be one of {', '.join(PURPOSES)}", param="purpose")
    return purpose


def read_lifetime(fields: Mapping[str, str]) -> int | None:
    """Return how many seconds to keep the file; None if it does not expire.

    Raises:
        InvalidRequestError: One of the two fields is missing or out of range.
    """
    if ANCHOR not in fields and SECONDS not in fields:
        return None
    if fields.get(ANCHOR) != "created_at":
        raise InvalidRequestError("must be created_at if the file is to expire", param=ANCHOR)
    seconds = fields.get(SECONDS, "")
    if not re.fullmatch(r"[0-9]{1,9}", seconds) or not MIN_LIFETIME_SECONDS <= int(seconds) <= MAX_LIFETIME_SECONDS:
        raise InvalidRequestError(
            f"must be an integer from {MIN_LIFETIME_SECONDS} to {MAX_LIFETIME_SECONDS}", param=SECONDS
        )
    return int(seconds)
