"""Normalizes the messages of a chat, in the same way for batch files and for requests to the API."""

from typing import Any


def normalize_messages(value: Any) -> Any:
    """Join the text parts of each message, and drop empty fields, which clients send back with earlier answers."""
    if not isinstance(value, list):
        return value
    return [_normalize_message(message) if isinstance(message, dict) else message for message in value]


def _normalize_message(message: dict[str, Any]) -> dict[str, Any]:
    role = "system" if message.get("role") == "developer" else message.get("role")
    rest = {name: part for name, part in message.items() if name not in ("role", "content") and part not in (None, [])}
    return {"role": role, "content": _join_parts(message.get("content")), **rest}


def _join_parts(content: Any) -> Any:
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            return content
        texts.append(part["text"])
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content
