"""What files are for: OpenAI's purposes and our own, `prompts`."""

from collections.abc import Mapping

PURPOSES = ("fine-tune", "prompts", "batch", "user_data", "assistants", "vision", "evals")
# OpenAI's schema has neither of these, and a strict client fails on a list with an unknown purpose.
SHOWN_AS: Mapping[str, str] = {"prompts": "user_data", "evals": "user_data"}


def shown_purpose(purpose: str) -> str:
    """Return the purpose that a file with this one shows."""
    return SHOWN_AS.get(purpose, purpose)


def equivalent_purposes(purpose: str) -> frozenset[str]:
    """Return all purposes that are shown as this one is; earlier releases stored them as they were sent."""
    shown = shown_purpose(purpose)
    return frozenset({shown, *(stored for stored, name in SHOWN_AS.items() if name == shown)})
