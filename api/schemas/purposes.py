"""The purposes of files: those of OpenAI's API, and our own purpose `prompts`."""

from collections.abc import Mapping

PURPOSES = ("fine-tune", "prompts", "batch", "user_data", "assistants", "vision", "evals")
# OpenAI's schema lacks these two purposes, and a strict client rejects a list that contains an unknown purpose.
DISPLAYED_PURPOSES: Mapping[str, str] = {"prompts": "user_data", "evals": "user_data"}


def to_displayed_purpose(purpose: str) -> str:
    """Return the purpose that clients see for a file stored with this purpose."""
    return DISPLAYED_PURPOSES.get(purpose, purpose)


def list_equivalent_purposes(purpose: str) -> frozenset[str]:
    """Return all stored purposes that clients see as the same purpose; earlier releases stored purposes as sent."""
    shown = to_displayed_purpose(purpose)
    return frozenset({shown, *(stored for stored, name in DISPLAYED_PURPOSES.items() if name == shown)})
