"""The purposes of files: OpenAI's, and our own, `prompts`."""

from collections.abc import Mapping

PURPOSES = ("fine-tune", "prompts", "batch", "user_data", "assistants", "vision", "evals")
# OpenAI's schema lacks these two purposes, and a strict client fails on a list with an unknown one.
SHOWN_AS: Mapping[str, str] = {"prompts": "user_data", "evals": "user_data"}


def shown_purpose(purpose: str) -> str:
    """Return the purpose that clients see for a file stored with this purpose."""
    return SHOWN_AS.get(purpose, purpose)


def equivalent_purposes(purpose: str) -> frozenset[str]:
    """Return all stored purposes that clients see as the same one; earlier releases stored purposes as sent."""
    shown = shown_purpose(purpose)
    return frozenset({shown, *(stored for stored, name in SHOWN_AS.items() if name == shown)})
