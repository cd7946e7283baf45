"""Detects duplicate keys in JSON objects; parsers silently keep only the last one."""

from collections import Counter
from typing import Any

MAX_SHOWN_KEY_CHARACTERS = 64  # maximum number of characters of a key to show in a message


class DuplicateKeyFinder:
    """Finds the first duplicate key while JSON is parsed; pass `read_object` as the `object_pairs_hook`.

    Attributes:
        name: The duplicate key, cut to a readable length; None if there is none.
        path: The path of the key, separated by dots, e.g. "logit_bias.5".
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.path = ""
        self._object: dict[str, Any] = {}

    def read_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Build the object and look for a duplicate key.

        Inner objects are read first, so the outer ones complete the path later.
        """
        fields = dict(pairs)
        if self.name is not None:
            self._extend_path(fields)
        elif len(fields) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            self.name = next(name for name, count in counts.items() if count > 1)[:MAX_SHOWN_KEY_CHARACTERS]
            self.path, self._object = self.name, fields
        return fields

    def _extend_path(self, outer: dict[str, Any]) -> None:
        for name, value in outer.items():
            inner = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
            for index, item in enumerate(inner):
                if item is self._object:
                    place = name if isinstance(value, dict) else f"{name}.{index}"
                    self.path, self._object = f"{place[:MAX_SHOWN_KEY_CHARACTERS]}.{self.path}", outer
                    return
